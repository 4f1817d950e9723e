"""Untrusted text for terminals: what is not seen there is escaped.

A program's words reach tables, JSON and log lines. There they must not move the cursor, set the title, or turn the
direction of a line.
"""

from __future__ import annotations

import json
import re
from typing import Any

_UNSEEN = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""What steers a terminal or turns the direction of a line without being seen, and halves of characters."""
_CONTROL = re.compile(rf"[\x00-\x08\x0b-\x1f{_UNSEEN}]")
_UNSEEN_IN_JSON = re.compile(f"[{_UNSEEN}]")


def plain(value: object) -> str:
    """The text with control characters escaped; tabs and ends of lines stay."""
    text = "" if value is None else str(value)
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def plain_json(value: Any, indent: int | None = None) -> str:
    """JSON that any program reads as it is, and that does nothing to a terminal."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNSEEN_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
