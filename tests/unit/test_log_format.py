"""Log lines as JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any
from uuid import uuid4

from ccat_workflow_manager.commands.log_format import JsonFormatter


def line(message: str, *args: object, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("a.logger", logging.WARNING, "file", 1, message, args, more.get("exc_info"))
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_names_the_ids_of_its_message() -> None:
    one, other = uuid4(), uuid4()
    found = line("step run %s of run %s, %s again", one, other, one)
    assert found["ids"] == [str(one), str(other)]
    assert (found["level"], found["logger"]) == ("WARNING", "a.logger")
    assert found["time"].endswith("+00:00")


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        found = line("incident %s", "0123456789ab", exc_info=sys.exc_info())
    assert found["incident"] == "0123456789ab"
    assert "two\nlines" in found["traceback"]
    assert "ids" not in found
