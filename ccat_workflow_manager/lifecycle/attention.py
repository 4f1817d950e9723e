"""Waits that only a person can end. Their words say so, wherever they are shown, and are found by it."""

from __future__ import annotations

MARK = "a person must act: "


def asking_for_a_person(words: str) -> str:
    """The reason for a wait that never ends by itself."""
    return f"{MARK}{words}"
