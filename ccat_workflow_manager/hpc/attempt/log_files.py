"""Log files that may be huge and may be growing: their ends, and whether they are too long.

The program can write where its logs are, so whatever stands under the name of a log is read only if it is a regular
file: a link could lead anywhere on the host.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import IO

from ccat_workflow_manager.hpc.attempt.log_limit import log_excess
from ccat_workflow_manager.hpc.attempt.script import JobFiles

_BLOCK = 64 * 1024
TAIL_LIMIT = 16 * 1024 * 1024
"""How many bytes of one stream are read at most."""


def excess(files: JobFiles, limit: float) -> str | None:
    """Why a job is not to go on, if it has written more log than so many bytes."""
    size = 0
    for path in (files.stdout, files.stderr):
        with suppress(OSError):
            size += os.lstat(path).st_size
    return log_excess(size, limit)


def read_end(path: str | os.PathLike[str], limit: int = TAIL_LIMIT) -> str:
    """The last `limit` bytes of a file as text, or all of it; empty if there is no such file (yet)."""
    try:
        with _opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            return file.read(limit).decode("utf-8", "replace")
    except (FileNotFoundError, NotALog):
        return ""


def last_lines(path: str | os.PathLike[str], lines: int, limit: int = TAIL_LIMIT) -> str:
    """The last lines of a file, reading no more of it than needed and never more than `limit` bytes."""
    if lines <= 0:
        return ""
    try:
        with _opened(path) as file:
            end = start = file.seek(0, os.SEEK_END)
            found = b""
            # One more line break than lines: the one before the first of them.
            while start > 0 and found.rstrip(b"\n").count(b"\n") < lines and end - start < limit:
                step = min(_BLOCK, start)
                start -= step
                file.seek(start)
                found = file.read(step) + found
    except (FileNotFoundError, NotALog):
        return ""
    return b"".join(found.splitlines(keepends=True)[-lines:]).decode("utf-8", "replace")


class NotALog(OSError):
    """What stands under the name of the log is no regular file."""


def _opened(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotALog(f"{path} is a link") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotALog(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb")
