"""Environment variables of a step: which names and values reach the program as they are written.

See docs/container-contract.md for the ones that a container runtime changes.
"""

from __future__ import annotations

import re

RESERVED_PREFIX = "WORKFLOW_"
"""Variables with this prefix are set by the workflow manager."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SET_BY_RUNTIME = frozenset({"HOME", "UID", "EUID", "GID", "PROMPT_COMMAND", "PREPEND_PATH", "APPEND_PATH"})


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a variable in a definition, wherever the step runs."""
    if not _NAME.fullmatch(name):
        return "is no name for a variable: letters, digits and _ are allowed, and no digit first"
    if name.startswith(RESERVED_PREFIX):
        return f"begins with {RESERVED_PREFIX}, a prefix that is reserved for the workflow manager"
    return None


def container_name_problem(name: str) -> str | None:
    """What is wrong with setting this variable in a container."""
    return "is set by the container runtime and cannot be chosen" if name in _SET_BY_RUNTIME else None


def container_value_problem(value: str) -> str | None:
    """What is wrong with this value in a container."""
    if "\x80" in value or "\x81" in value:
        # Apptainer reads variables with a shell parser in which these two stand for the end of the file and for an
        # escaped newline: the first makes it drop every variable there is, the second adds a line break.
        return "holds U+0080 or U+0081, control characters that Apptainer changes"
    if "\r\n" in value:
        return "has a line that ends in CR LF, which container runtimes change"
    return None
