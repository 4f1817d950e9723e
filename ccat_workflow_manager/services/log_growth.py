"""Finds what is new in a log of which only the end can be read. Imports nothing: commands start fast."""

from __future__ import annotations

_ANCHOR = 4096


def new_part(shown: str, text: str) -> tuple[str, bool]:
    """The part of `text`, the end of a log, that follows `shown`, its end at the time before; and whether it follows.

    Otherwise the log grew too fast, and a part between the two is missing.
    """
    if text.startswith(shown):
        return text[len(shown) :], True
    anchor = shown[-_ANCHOR:]
    at = text.rfind(anchor)
    if at >= 0:
        return text[at + len(anchor) :], True
    return text, False
