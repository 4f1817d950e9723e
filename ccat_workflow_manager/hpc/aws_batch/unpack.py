"""Unpacks what a job has sent: regular files, directories, and links that stay inside. Other entries are left out.

A job controls its archive. So every entry is made relative to the descriptor of its directory, no link is followed, and
the whole must fit into a budget. (The filters of `tarfile` had holes, which not every Python 3.11 has closed.)
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.attempt.opener import OPEN_DIRECTORY, stays_inside

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY_BYTES = 4096
"""What an entry costs at least: archives of empty files must end, too."""


class TooLarge(ValueError):
    """The content exceeds the budget."""


FAULTS = (tarfile.TarError, ValueError, OverflowError, EOFError, zlib.error, OSError)
"""What an archive raises that is cut short, damaged or made to do harm."""


def unpack(archive: IO[bytes], directory: str, names: Collection[str], limit_bytes: float) -> None:
    """Unpack those entries of a compressed archive that have one of these names, or are below it.

    Raises TooLarge, and for other archives that cannot be unpacked the errors of FAULTS.
    """
    root = os.open(directory, OPEN_DIRECTORY)
    left = limit_bytes
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for entry in tar:
                left -= _ENTRY_BYTES + max(0, entry.size)
                if left < 0:
                    raise TooLarge(f"it unpacks to more than {limit_bytes / GIB:g} GB")
                if (parts := _parts(entry.name)) is not None and parts[0] in names:
                    _make(tar, entry, parts, root)
    finally:
        os.close(root)


def _parts(path: str) -> list[str] | None:
    """The components of a relative path; None if it could lead out."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return None if path.startswith("/") or ".." in parts or not parts else parts


def _make(tar: tarfile.TarFile, entry: tarfile.TarInfo, parts: list[str], root: int) -> None:
    *directories, name = parts
    if entry.isdir():
        with _opened([*directories, name], root):
            return
    with _opened(directories, root) as parent:
        if entry.isreg():
            _write(tar, entry, name, parent)
        elif entry.issym() and stays_inside("/".join(parts), entry.linkname):
            _remove(name, parent)
            os.symlink(entry.linkname, name, dir_fd=parent)
        elif entry.islnk() and (target := _parts(entry.linkname)) is not None:
            with _opened(target[:-1], root) as source:
                if stat.S_ISREG(os.stat(target[-1], dir_fd=source, follow_symlinks=False).st_mode):
                    _remove(name, parent)
                    os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, name: str, parent: int) -> None:
    content = tar.extractfile(entry)
    assert content is not None, "a regular file has content"
    _remove(name, parent)
    with open(os.open(name, _NEW, entry.mode & 0o755 | 0o600, dir_fd=parent), "wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        with suppress(OverflowError):
            os.utime(file.fileno(), (entry.mtime, entry.mtime))


def _remove(name: str, parent: int) -> None:
    """Remove what an interrupted unpacking has left."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


@contextmanager
def _opened(directories: list[str], root: int) -> Iterator[int]:
    """A descriptor of a directory below `root`, which is made if it is missing. Raises OSError for a link."""
    held = os.dup(root)
    try:
        for name in directories:
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=held)
            below = os.open(name, OPEN_DIRECTORY, dir_fd=held)
            os.close(held)
            held = below
        yield held
    finally:
        os.close(held)
