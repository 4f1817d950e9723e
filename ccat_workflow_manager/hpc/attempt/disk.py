"""The disk space of one attempt: everything below its directory, without following links."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

_BLOCK = 512  # the unit of st_blocks, on every filesystem
GIB = 1024**3
"""Bytes of a gigabyte, for every limit of memory, disk and logs."""


def disk_excess(directory: str, limit_bytes: float) -> str | None:
    """Why a job must stop that holds more disk space than `limit_bytes`; None if it does not.

    Ends as soon as it is too much. A file with several names counts once.
    """
    used = 0
    several: set[tuple[int, int]] = set()
    waiting = [directory]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(entry.path)
                elif found.st_nlink > 1:
                    if (found.st_dev, found.st_ino) in several:
                        continue
                    several.add((found.st_dev, found.st_ino))
                used += found.st_blocks * _BLOCK
                if used > limit_bytes:
                    return f"the program uses more than the {limit_bytes / GIB:g} GB of disk that DISK_LIMIT_GB allows"
    return None
