"""Read the logs of an attempt, of any size, while they grow.

A program can write to its log directory and replace it, so logs are read through `attempt.opener`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import NotFound, OutputError
from ccat_workflow_manager.execution.layout import AttemptDirs
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.logs import log_excess
from ccat_workflow_manager.hpc.attempt.opener import UnsafeFile, opened

MAX_BYTES = 4 * 1024 * 1024
STREAMS = ("stdout", "stderr")
_BLOCK = 64 * 1024
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a log. `next_offset` is where the next piece begins; `size` is the present size of the log."""

    text: str
    offset: int
    next_offset: int
    size: int
    truncated: bool = False
    """A tail has fewer lines than requested, although the log has more."""


def read_log(
    dirs: AttemptDirs,
    stream: str = "stdout",
    *,
    tail: int | None = None,
    offset: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> LogChunk:
    """The last `tail` lines, or what follows `offset`, or the beginning; at most `max_bytes`.

    A log that does not exist yet is empty. To follow a log, read its tail, then read from its `next_offset`.
    """
    failpoints.point("files.log")
    if stream not in STREAMS:
        raise NotFound(f"there is no stream {stream!r}; there are {' and '.join(STREAMS)}")
    with _opened(dirs, stream) as file:
        if file is None:
            return LogChunk("", 0, 0, 0)
        size = os.fstat(file).st_size
        start, truncated = min(max(offset or 0, 0), size), False
        if tail is not None:
            start, truncated = _start_of_tail(file, size, tail, max_bytes)
        data = os.pread(file, min(max_bytes, size - start), start)
    complete = _complete(data)
    return LogChunk(data[:complete].decode("utf-8", "replace"), start, start + complete, size, truncated)


def tail_text(dirs: AttemptDirs, stream: str = "stderr") -> str:
    """The end of a log, for an error text. Empty if it does not exist or cannot be read."""
    try:
        with _opened(dirs, stream) as file:
            if file is None:
                return ""
            size = os.fstat(file).st_size
            return os.pread(file, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace")
    except OutputError:
        return ""


def check_log_limit(dirs: AttemptDirs, limit_mb: float) -> None:
    """Raise OutputError(LOG_LIMIT) if the logs are too long, for backends that do not enforce the limit."""
    if (message := log_excess(dirs, limit_mb * 1024**2)) is not None:
        raise OutputError(FailureReason.LOG_LIMIT, message)


@contextmanager
def _opened(dirs: AttemptDirs, stream: str) -> Iterator[int | None]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(opened(dirs.stdout if stream == "stdout" else dirs.stderr, root=dirs.root))
        except FileNotFoundError:
            file = None
        except UnsafeFile as error:
            raise OutputError(FailureReason.OUTPUT_INVALID, f"{stream}.log cannot be read: {error.strerror}") from error
        except OSError as error:
            message = f"{stream}.log cannot be read: {error.strerror}"
            raise OutputError(FailureReason.OUTPUT_UNREADABLE, message) from error
        yield file


def _start_of_tail(file: int, size: int, lines: int, max_bytes: int) -> tuple[int, bool]:
    """The offset of the last `lines` lines, found block by block from the end, and whether `max_bytes` cut them."""
    if lines <= 0:
        return size, False
    floor = max(0, size - max_bytes)
    position = size
    newlines = 0
    # A newline at the end of the file ends the last line; it does not begin another one.
    wanted = lines + 1 if size and os.pread(file, 1, size - 1) == b"\n" else lines
    while position > floor:
        start = max(floor, position - _BLOCK)
        block = os.pread(file, position - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            newlines += 1
            if newlines == wanted:
                return start + at + 1, False
        position = start
    return floor, floor > 0


def _complete(data: bytes) -> int:
    """The number of bytes up to the last complete UTF-8 character: the program may still write the rest of one."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if needed > back else len(data)
    return len(data)
