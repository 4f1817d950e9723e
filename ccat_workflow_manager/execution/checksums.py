"""Checksums of inputs. A file that has not changed is read once per process, a large one in the background."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.errors import StagingError, WorkflowError
from ccat_workflow_manager.execution.background import Background
from ccat_workflow_manager.execution.globbing import TooManyNames
from ccat_workflow_manager.execution.launch_spec import Progress, no_progress
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.opener import OPEN_DIRECTORY, OPEN_FILE

_CHUNK = 4 * 1024 * 1024
_INLINE_BYTES = 256 * 1024 * 1024
"""Larger files are read in the background, while the worker launches other step runs."""
_ENTRIES_PER_PROGRESS = 500
_DEEPEST = 64


class ChangedWhileRead(WorkflowError):
    """A file changed while it was read."""


class FileState(NamedTuple):
    """What changes when a file changes."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, about: os.stat_result) -> FileState:
        return cls(about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


_known: BoundedCache[FileState, str] = BoundedCache(200_000)
_going_on: Background[str] = Background(FailureReason.INPUT_UNREADABLE)


def checksum_of(opened: int, path: str, state: FileState, progress: Progress) -> str:
    """The SHA-256 of an open file that is in this state. Raises ChangedWhileRead, or JobDeferred for a large file."""
    if (known := _known.get(state)) is not None:
        return known
    if state.size <= _INLINE_BYTES:
        found = _read(os.dup(opened), state, progress)
    else:
        found = _going_on.result(
            state,
            lambda: _read(os.open(path, OPEN_FILE), state, no_progress),
            progress,
            name=f"checksum {path}",
            waiting=f"waiting for the checksum of {path}",
        )
    _known.put(state, found, 1)
    return found


def _read(opened: int, state: FileState, progress: Progress) -> str:
    digest = hashlib.sha256()
    with open(opened, "rb", buffering=0) as file:
        if FileState.of(os.fstat(file.fileno())) != state:
            raise ChangedWhileRead
        file.seek(0)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            progress()
        if FileState.of(os.fstat(file.fileno())) != state:
            raise ChangedWhileRead
    return digest.hexdigest()


# --- directories ------------------------------------------------------------------------------------------------------


class Tree(NamedTuple):
    size: int
    sha256: str
    file_count: int


@dataclass(slots=True)
class _Listing:
    root: str
    most: int
    allowed: Callable[[str], bool]
    progress: Progress
    lines: list[str] = field(default_factory=list)
    size: int = 0
    entries: int = 0

    def add(self, directory: int, prefix: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise TooManyNames(f"is more than {_DEEPEST} directories deep")
        with os.scandir(directory) as found:
            names = sorted(entry.name for entry in found)
        for name in names:
            self.entries += 1
            if self.entries > self.most:
                raise TooManyNames(f"holds more than {self.most} files and directories (INPUT_MAX_ENTRIES)")
            if self.entries % _ENTRIES_PER_PROGRESS == 0:
                self.progress()
            self._add_one(directory, name, prefix + name, depth)

    def _add_one(self, directory: int, name: str, path: str, depth: int) -> None:
        about = os.stat(name, dir_fd=directory, follow_symlinks=False)
        shown = os.fsencode(path).hex() if not path.isprintable() else path
        if stat.S_ISREG(about.st_mode):
            self.size += about.st_size
            self.lines.append(f"file {shown} {about.st_size} {about.st_mtime_ns}")
        elif stat.S_ISDIR(about.st_mode):
            self.lines.append(f"directory {shown}")
            inner = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
            try:
                self.add(inner, f"{path}/", depth + 1)
            finally:
                os.close(inner)
        elif stat.S_ISLNK(about.st_mode):
            target = os.path.realpath(f"/proc/self/fd/{directory}/{name}")
            if not self.allowed(target):
                message = f"{self.root}/{path} is a link to {target}, which is not below INPUT_ROOTS"
                raise StagingError(FailureReason.INPUT_REFUSED, message)
            self.lines.append(f"link {shown} {os.readlink(name, dir_fd=directory)!r}")
        else:
            message = f"{self.root}/{path} is neither a file nor a directory"
            raise StagingError(FailureReason.INPUT_UNREADABLE, message)


def tree_checksum(directory: int, root: str, most: int, allowed: Callable[[str], bool], progress: Progress) -> Tree:
    """The checksum of an open directory: that of the list of its names, sizes and times.

    Raises TooManyNames beyond `most` entries, StagingError for a link to what is not `allowed`.
    """
    listing = _Listing(root, most, allowed, progress)
    listing.add(directory, "", 0)
    digest = hashlib.sha256("\n".join(listing.lines).encode(errors="surrogateescape")).hexdigest()
    return Tree(listing.size, digest, sum(line.startswith("file ") for line in listing.lines))
