"""Looks at published products again: whether they are as they were collected."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from ccat_workflow_manager.execution.launch_spec import Progress
from ccat_workflow_manager.execution.scan import tree_checksum
from ccat_workflow_manager.hpc.attempt.opener import OPEN_FILE

_BLOCK = 1024 * 1024


class PublishedState(NamedTuple):
    """What can be seen of a product without reading it."""

    kind: str
    """`regular file`, `directory`, or empty for anything else."""
    size: int
    files: int
    changed: float
    """When anything in it was last changed, in seconds since 1970. No program can set this time."""


def state_of_published(path: str) -> PublishedState:
    """The state of a product. Raises OSError. Follows no link."""
    about = os.lstat(path)
    if not stat.S_ISDIR(about.st_mode):
        kind = "regular file" if stat.S_ISREG(about.st_mode) else ""
        return PublishedState(kind, about.st_size, 1, about.st_ctime)
    size, files, changed = 0, 0, about.st_ctime
    for _, _, each in _entries(path):
        changed = max(changed, each.st_ctime)
        if stat.S_ISREG(each.st_mode):
            size, files = size + each.st_size, files + 1
    return PublishedState("directory", size, files, changed)


def checksum_of_published(path: str, is_directory: bool, progress: Progress) -> str:
    """The checksum of a product, as it was collected. Raises OSError. Follows no link and waits for no writer."""
    if not is_directory:
        digest = hashlib.sha256()
        with open(os.open(path, OPEN_FILE), "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                progress()
        return digest.hexdigest()
    lines = []
    for entry, relative, about in _entries(path):
        if stat.S_ISDIR(about.st_mode):
            lines.append((relative, "directory"))
        elif stat.S_ISREG(about.st_mode):
            lines.append((relative, f"file {about.st_size} {checksum_of_published(entry, False, progress)}"))
        else:
            lines.append((relative, f"link {os.readlink(entry) if stat.S_ISLNK(about.st_mode) else ''}"))
    return tree_checksum(lines)


def _entries(root: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """The path, the path below `root` and the state of everything in a directory."""
    unread = [""]
    while unread:
        prefix = unread.pop()
        with os.scandir(f"{root}/{prefix}") as found:
            names = [prefix + each.name for each in found]
        for relative in names:
            about = os.lstat(f"{root}/{relative}")
            yield f"{root}/{relative}", relative, about
            if stat.S_ISDIR(about.st_mode):
                unread.append(f"{relative}/")
