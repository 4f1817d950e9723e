"""Log lines as JSON, for systems that collect them."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager import tracing

_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_INCIDENT = re.compile(r"\bincident ([0-9a-f]{12})\b")


class JsonFormatter(logging.Formatter):
    """One JSON object a line. `ids` are those of the runs, step runs and other things that the message names."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "thread": record.threadName,
            "message": message,
        }
        if ids := list(dict.fromkeys(_ID.findall(message))):
            line["ids"] = ids
        if incident := _INCIDENT.search(message):
            line["incident"] = incident[1]
        if (trace := tracing.current()) is not None:
            line["trace_id"] = trace.trace_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
