"""The files of a definition on disk, for `/workflow/code`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from secrets import token_hex

from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.execution.launch_spec import ReadFile
from ccat_workflow_manager.failures import FailureReason


def write_files(directory: str, files: Mapping[str, str], read: ReadFile) -> None:
    """Make the directory with these files. One that exists is complete and stays: its name is made of its content."""
    if os.path.isdir(directory):
        return
    partial = f"{directory}.{token_hex(8)}.part"
    os.makedirs(partial)
    try:
        for name, digest in files.items():
            content = read(digest)
            if sha256(content).hexdigest() != digest:
                raise StagingError(FailureReason.STAGING_FAILED, f"the stored file {name} does not have its checksum")
            path = f"{partial}/{name}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, content)
        with suppress(FileExistsError):  # another step run of the run was faster
            _publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o555)
    with open(descriptor, "wb") as file:
        file.write(content)


def _publish(partial: str, directory: str) -> None:
    try:
        os.rename(partial, directory)
    except OSError:
        if not os.path.isdir(directory):
            raise
        raise FileExistsError(directory) from None
