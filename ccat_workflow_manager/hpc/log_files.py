"""Reading the end of a log file that may be huge and may be growing."""

from __future__ import annotations

import os

_BLOCK = 64 * 1024
TAIL_LIMIT = 16 * 1024 * 1024
"""How many bytes of one stream are read at most."""


def read_end(path: str | os.PathLike[str], limit: int = TAIL_LIMIT) -> str:
    """The last `limit` bytes of a file as text, or all of it; empty if there is no such file (yet)."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            return file.read(limit).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def last_lines(path: str | os.PathLike[str], lines: int, limit: int = TAIL_LIMIT) -> str:
    """The last lines of a file, reading no more of it than needed and never more than `limit` bytes."""
    if lines <= 0:
        return ""
    try:
        with open(path, "rb") as file:
            end = start = file.seek(0, os.SEEK_END)
            found = b""
            # One more line break than lines: the one before the first of them.
            while start > 0 and found.rstrip(b"\n").count(b"\n") < lines and end - start < limit:
                step = min(_BLOCK, start)
                start -= step
                file.seek(start)
                found = file.read(step) + found
    except FileNotFoundError:
        return ""
    return b"".join(found.splitlines(keepends=True)[-lines:]).decode("utf-8", "replace")
