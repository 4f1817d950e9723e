"""Which variables do not arrive in a container as they are written; see docs/container-contract.md."""

from __future__ import annotations

_SET_BY_RUNTIME = frozenset({"HOME", "UID", "EUID", "GID", "PROMPT_COMMAND", "PREPEND_PATH", "APPEND_PATH"})


def name_problem(name: str) -> str | None:
    """What is wrong with choosing this variable."""
    return "is set by the container runtime and cannot be chosen" if name in _SET_BY_RUNTIME else None


def value_problem(value: str) -> str | None:
    """What is wrong with this value."""
    if "\x80" in value or "\x81" in value:
        # Apptainer reads variables with a shell parser in which these two stand for the end of the file and for an
        # escaped newline: the first makes it drop every variable there is, the second adds a line break.
        return "holds U+0080 or U+0081, control characters that Apptainer changes"
    if "\r\n" in value:
        return "has a line that ends in CR LF, which container runtimes change"
    return None
