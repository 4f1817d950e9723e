"""Writing a job script where no shell, not even one that is reading another of this name, sees half of it."""

from __future__ import annotations

import os
from contextlib import suppress
from uuid import uuid4

from ccat_workflow_manager.hpc.attempt.script import JobFiles

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def write_script(files: JobFiles, script: bytes) -> None:
    """Write the script as a new file: a shell may be reading one of that name. Raises OSError."""
    for directory in (os.path.dirname(files.script), os.path.dirname(files.stdout)):
        if not os.path.isdir(directory):
            os.makedirs(directory, exist_ok=True)
    try:
        file = os.open(files.script, _NEW, 0o644)
    except FileExistsError:
        part = f"{files.script}.{uuid4().hex}"
        _write(os.open(part, _NEW, 0o644), script, part)
        os.rename(part, files.script)
    else:
        _write(file, script, files.script)


def _write(file: int, data: bytes, path: str) -> None:
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(file)
