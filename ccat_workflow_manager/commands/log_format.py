"""Log lines: as text for people, as JSON for systems that collect them. What a program says stays inside its line."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager import tracing
from ccat_workflow_manager.commands.terminal_text import plain, plain_json

_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_INCIDENT = re.compile(r"\bincident ([0-9a-f]{12})\b")


class TextFormatter(logging.Formatter):
    """One record begins one line. Further lines of a message or a traceback are indented: none looks like a record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s [%(process)d] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record)).replace("\n", "\n    ")


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
        return plain_json(line)
