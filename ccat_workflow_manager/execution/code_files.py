"""The files of a definition on disk, for `/workflow/code`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from secrets import token_hex

from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.execution.launch_spec import ReadFiles
from ccat_workflow_manager.failures import FailureReason


def write_files(directory: str, files: Mapping[str, str], read: ReadFiles) -> None:
    """Make the directory with these files. One that exists is complete and stays: its name is made of its content."""
    if os.path.isdir(directory):
        return
    contents = read(set(files.values()))
    partial = f"{directory}.{token_hex(8)}.part"
    os.makedirs(partial)
    try:
        for name, digest in files.items():
            content = contents.get(digest)
            if content is None or sha256(content).hexdigest() != digest:
                message = f"the file {name} of the definition is not stored with its checksum {digest}"
                raise StagingError(FailureReason.STAGING_FAILED, message)
            path = f"{partial}/{name}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, content)
        try:
            os.rename(partial, directory)
        except OSError:
            if not os.path.isdir(directory):  # else another step run of the run was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o555)
    with open(descriptor, "wb") as file:
        file.write(content)
