"""Words for statuses, numbers and names, and texts of others."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ccat_workflow_manager.failures import failure_info

STATUS_WORDS = {
    "PENDING": "Pending",
    "STAGING_DATA": "Staging",
    "SUBMITTED": "Submitted",
    "RUNNING": "Running",
    "COLLECTING_RESULTS": "Collecting",
    "COMPLETED": "Completed",
    "FAILED": "Failed",
    "CANCELLED": "Cancelled",
    "SKIPPED": "Skipped",
    "WARN": "Needs attention",
    "HELD": "Held back",
    "PAUSED": "Paused",
    "OK": "ok",
    "OFF": "not set up",
}
DOING = {"user": "pipeline", "site": "site", "us": "workflow manager"}
"""Whose doing a failure is, by the word of the API."""

MOVES = {
    "system": "none: it goes on by itself",
    "site": "the site's",
    "author": "the author's of the pipeline",
    "operator": "an operator's",
}
"""Who can do something about it, by the word of the API."""
NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters as symbols; tabs and line ends stay."""
    return _CONTROL.sub(_symbol, text)


def _symbol(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def shown(value: object) -> str:
    """A JSON value in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def brief(value: object, most: int = 160) -> str:
    """A JSON value in one line, a long list by its first entries."""
    if isinstance(value, list) and len(value) > 4:
        return f"{', '.join(map(shown, value[:3]))} ... {shown(value[-1])}, {count(len(value), 'entry', 'entries')}"[
            :most
        ]
    text = shown(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def pairs(value: object) -> str:
    """The members of a JSON object in one line, without its brackets; what is null is left out."""
    if not isinstance(value, dict):
        return "" if value is None else shown(value)
    return ", ".join(f"{name}: {brief(each)}" for name, each in value.items() if each is not None)


def count(number: int, one: str, many: str = "") -> str:
    """`1 run`, `3 runs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def written(number: int) -> str:
    """A small number as a word at the beginning of a sentence."""
    return NUMBERS[number] if 0 <= number < len(NUMBERS) else f"{number:,}"


def ordinal(number: int) -> str:
    if 0 < number < len(_ORDINALS):
        return _ORDINALS[number]
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def capped(number: int, most: int) -> str:
    """A count that stops at `most`."""
    return f"{most:,}+" if number >= most else f"{number:,}"


def doing(reason: str | None) -> str:
    """Whose doing a failure with this reason is."""
    info = failure_info(reason)
    return DOING[info.blame] if info else ""


def meaning(reason: str | None) -> str:
    """What a reason means."""
    info = failure_info(reason)
    return info.text if info else ""


def listed(names: Sequence[str], most: int = 3) -> str:
    """`a, b and 4 more`."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
