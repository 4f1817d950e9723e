"""Log files that may be huge and may be growing: their ends, and whether they are too long."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.opener import UnsafeFile, opened

TAIL_LIMIT = 16 * 1024 * 1024
"""The most bytes of one stream that are read."""
_BLOCK = 64 * 1024
_MIB = 1024**2


class LogPair(Protocol):
    """The paths of the logs of one attempt."""

    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...


def log_excess(logs: LogPair, limit_bytes: float) -> str | None:
    """Why a job must stop that has written more log than `limit_bytes`; None if it has not."""
    size = 0
    for path in (logs.stdout, logs.stderr):
        with suppress(OSError):
            size += os.lstat(path).st_size
    if size <= limit_bytes:
        return None
    return f"the program wrote {size / _MIB:.0f} MB of log; LOG_LIMIT_MB allows {limit_bytes / _MIB:g}"


def read_logs(files: AttemptFiles) -> str:
    """The ends of both streams."""
    return "".join(read_end(path, root=files.directory) for path in (files.stdout, files.stderr))


def tail_log(files: AttemptFiles, stream: str, lines: int) -> str:
    """The last lines of one stream, `stdout` or `stderr`."""
    return last_lines(files.stderr if stream == "stderr" else files.stdout, lines, root=files.directory)


def read_end(path: str, *, root: str, limit: int = TAIL_LIMIT) -> str:
    """The last `limit` bytes of a file below `root` as text. Empty if it is missing or unsafe to read."""
    try:
        with opened(path, root=root) as file:
            return os.pread(file, limit, max(0, os.fstat(file).st_size - limit)).decode("utf-8", "replace")
    except (FileNotFoundError, UnsafeFile):
        return ""


def last_lines(path: str, lines: int, *, root: str, limit: int = TAIL_LIMIT) -> str:
    """The last lines of a file below `root`, read backwards and never more than about `limit` bytes."""
    if lines <= 0:
        return ""
    try:
        with opened(path, root=root) as file:
            end = start = os.fstat(file).st_size
            found = b""
            # One more line break than lines: the one before the first of them.
            while start > 0 and found.rstrip(b"\n").count(b"\n") < lines and end - start < limit:
                step = min(_BLOCK, start)
                start -= step
                found = os.pread(file, step, start) + found
    except (FileNotFoundError, UnsafeFile):
        return ""
    return b"".join(found.splitlines(keepends=True)[-lines:]).decode("utf-8", "replace")
