"""Check the header of a SIF image without a container runtime."""

from __future__ import annotations

import hashlib
import os
import stat
import struct

from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.execution.launch_spec import Progress, no_progress
from ccat_workflow_manager.failures import FailureReason

_HEADER_BYTES = 128
_MAGIC_OFFSET, _MAGIC = 32, b"SIF_MAGIC"
_DATA_OFFSET = 112
_DATA = struct.Struct("<qq")
"""Offset and length of the data section: a file that ends before it is truncated."""
_CHUNK = 4 * 1024 * 1024
_CHUNKS_PER_PROGRESS = 16


def check_sif(path: str) -> None:
    """Raise StagingError(IMAGE_INVALID) unless the file is a complete SIF image by its header."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        header = os.read(descriptor, _HEADER_BYTES) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(descriptor)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC, _MAGIC_OFFSET):
        raise StagingError(FailureReason.IMAGE_INVALID, f"{path} is not a SIF image")
    offset, length = _DATA.unpack_from(header, _DATA_OFFSET)
    if status.st_size < offset + length:
        message = f"{path} is cut short: it has {status.st_size} of {offset + length} bytes"
        raise StagingError(FailureReason.IMAGE_INVALID, message)


def digest_of(path: str, progress: Progress = no_progress) -> str:
    """`sha256:...` of a file."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        count = 0
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            count += 1
            if count % _CHUNKS_PER_PROGRESS == 0:
                progress()
    return f"sha256:{digest.hexdigest()}"
