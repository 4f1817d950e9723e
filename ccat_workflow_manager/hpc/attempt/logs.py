"""Log files that may be huge and may be growing: their ends, and whether they are too long.

A job may rename or remove its logs and write on. So all files beside the logs count, and where the job's script can be
looked at, what it has open.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import islice
from typing import Protocol

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.opener import UnsafeFile, opened

TAIL_LIMIT = 16 * 1024 * 1024
"""The most bytes of one stream that are read."""
_BLOCK = 64 * 1024
_MIB = 1024**2
_MOST_FILES = 1000


class LogPair(Protocol):
    """The paths of the logs of one attempt."""

    @property
    def logs(self) -> str: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...


def log_excess(logs: LogPair, limit_bytes: float, script: int = 0) -> str | None:
    """Why a job must stop that has written more log than `limit_bytes`; None if it has not.

    `script` is the process of the job script, if it runs on this machine.
    """
    found = _files_in(logs.logs) | (_open_in(script) if script else {})
    size = sum(found.values())
    if size <= limit_bytes:
        return None
    return f"the program wrote {size / _MIB:.0f} MB of log; LOG_LIMIT_MB allows {limit_bytes / _MIB:g}"


def _files_in(directory: str) -> dict[tuple[int, int], int]:
    """The sizes of the files of a directory, by identity."""
    found: dict[tuple[int, int], int] = {}
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in islice(entries, _MOST_FILES):
            with suppress(OSError):
                _note_size(found, entry.stat(follow_symlinks=False))
    return found


def _open_in(script: int) -> dict[tuple[int, int], int]:
    """The same for the logs that a job script has open; it moves stderr to another descriptor."""
    found: dict[tuple[int, int], int] = {}
    for descriptor in (1, 2, 3):
        with suppress(OSError):
            _note_size(found, os.stat(f"/proc/{script}/fd/{descriptor}"))
    with suppress(OSError):
        # Before it opens its logs a script has the stderr of the process that starts it.
        own = os.fstat(2)
        found.pop((own.st_dev, own.st_ino), None)
    return found


def _note_size(found: dict[tuple[int, int], int], of: os.stat_result) -> None:
    if stat.S_ISREG(of.st_mode):
        found[of.st_dev, of.st_ino] = of.st_size


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
