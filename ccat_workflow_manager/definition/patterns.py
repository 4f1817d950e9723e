"""Regular expressions of pipelines, run by RE2: the time is linear in the text, whatever the pattern is."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2

from ccat_workflow_manager.errors import Fault, Invalid

_BYTES_OF_ONE = 256 * 1024
_HUGE_REPETITION = re.compile(r"\{\d*,?\d{5,}")
"""RE2 takes such a repetition for plain text."""
_UNKNOWN = {
    "'utf-8' codec": "it holds half of a surrogate pair",
    "invalid perl operator": "RE2, which runs it, has no lookahead, no lookbehind, no atomic group and no condition",
    "invalid escape sequence": "RE2, which runs it, has no backreference and no such escape; write \\x{HEX}, or \\z for"
    " the end of the text",
    "bad repetition operator": "RE2, which runs it, has no possessive repetition and none of a repetition",
    "invalid repetition size": "RE2, which runs it, repeats at most 1000 times",
    "pattern too large": "RE2, which runs it, has 256 KB for one pattern",
}


def pattern_problem(pattern: str) -> str | None:
    """Why this pattern cannot be used; None if it can."""
    if _HUGE_REPETITION.search(pattern):
        return _UNKNOWN["invalid repetition size"]
    try:
        _compiled(pattern)
    except (re2.error, UnicodeEncodeError) as error:
        text = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        return next((why for beginning, why in _UNKNOWN.items() if text.startswith(beginning)), text)
    return None


def found(pattern: str, text: str) -> bool:
    """Whether the pattern occurs in the text."""
    try:
        return _compiled(pattern).search(text) is not None
    except re2.error:  # of a definition that a release with another engine has accepted
        raise Invalid(faults=[Fault("parameters", f"the pattern {pattern!r} cannot be used")]) from None


def size(pattern: str) -> int:
    """The number of instructions, which bounds the time for one byte of text."""
    return int(_compiled(pattern).programsize)


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _BYTES_OF_ONE
    return re2.compile(pattern, options)
