"""Reads files that a job may have replaced.

A job can write into the directory of its attempt, so a log or a record may be a link to any file of the host, a FIFO, a
device, or huge. Every component below a trusted root is opened relative to the one before, without following links.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SMALL = 64 * 1024
"""The size that exit records, claims and the like never exceed."""

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags of `os.open` that refuse a link and do not wait for the other end of a FIFO."""
_REFUSED = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)
"""The errors of a link, of a file instead of a directory, and of a socket or a device without a driver."""


class UnsafeFile(OSError):
    """The file must not be read: reached through a link, not a regular file, or too large."""

    def __init__(self, why: str, path: str) -> None:
        super().__init__(errno.EINVAL, why, path)


@dataclass(frozen=True, slots=True)
class SmallFile:
    """The content of a small file and the time of its last change."""

    data: bytes
    modified: float

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@contextmanager
def opened(path: str, *, root: str) -> Iterator[int]:
    """A descriptor of a regular file below `root`. Raises UnsafeFile, and OSError as `open` does.

    Links in `root` itself are followed. Opening directories also makes network filesystems look again for new files.
    """
    *directories, name = _components(path, root)
    held = _open(root, OPEN_DIRECTORY & ~os.O_NOFOLLOW, None, root)
    try:
        for each in directories:
            below = _open(each, OPEN_DIRECTORY, held, path)
            os.close(held)
            held = below
        file = _open(name, OPEN_FILE, held, path)
    finally:
        os.close(held)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UnsafeFile("not a regular file", path)
        yield file
    finally:
        os.close(file)


def read_small(path: str, *, root: str) -> SmallFile | None:
    """The whole of a file below `root`; None if there is none. Raises UnsafeFile, also above SMALL, and OSError."""
    try:
        with opened(path, root=root) as file:
            data = b""
            while len(data) <= SMALL and (block := os.read(file, SMALL + 1 - len(data))):
                data += block
            if len(data) > SMALL:
                raise UnsafeFile(f"larger than {SMALL} bytes", path)
            return SmallFile(data, os.fstat(file).st_mtime)
    except FileNotFoundError:
        return None


def stays_inside(path: str, target: str) -> bool:
    """Whether a link at `path` (relative to the root) stays below the root.

    `..` is allowed only at the start: the directory of the link is real, so each `..` leads to its parent. After a name
    that may be another link, `..` could lead anywhere.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    if target.startswith("/") or not target:
        return False
    upwards = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    return upwards <= path.count("/") and ".." not in parts[upwards:]


def _components(path: str, root: str) -> list[str]:
    relative = path.removeprefix(root.rstrip("/") + "/")
    components = [each for each in relative.split("/") if each not in ("", ".")]
    if relative == path or not components or ".." in components:
        raise ValueError(f"{path} is not below {root}")
    return components


def _open(name: str, flags: int, directory: int | None, path: str) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in _REFUSED:
            raise UnsafeFile(f"{name} is a link or not a regular file", path) from error
        if error.errno == errno.EACCES and _is_closed(name, directory):
            raise UnsafeFile(f"{name} has permissions that forbid to read it", path) from error
        raise OSError(error.errno, error.strerror, path) from error


def _is_closed(name: str, directory: int | None) -> bool:
    """Whether its own permissions, which a job can change, refuse a file even to its owner.

    Otherwise the filesystem refuses it, such as one whose ticket has expired: that says nothing about the job.
    """
    try:
        return not os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode & stat.S_IRUSR
    except OSError:
        return directory is not None and not os.fstat(directory).st_mode & stat.S_IXUSR
