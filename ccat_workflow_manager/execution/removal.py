"""Removes directories of runs: any size, any depth, no step outside of the run.

A program may have left links, directories without permissions, and trees too deep for recursion. So nothing follows a
link, and a tree is made flat while it is removed: its inner directories move up into one that is named `.removed-...`.
That directory is what an interrupted removal leaves, and where the next one goes on.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from ccat_workflow_manager.hpc.attempt.opener import OPEN_DIRECTORY

_PREFIX = ".removed-"
_AT_ONCE = 1000

Progress = Callable[[], object]


class OutOfTime(Exception):
    """The time for this removal is over. What it has removed stays removed."""


@contextmanager
def directory(*parts: str) -> Iterator[int | None]:
    """The directory below the first one that these names lead to, opened without following a link; None: not there.

    Raises OSError for a link.
    """
    with ExitStack() as opened:
        current: int | None = None
        for part in parts:
            try:
                current = os.open(
                    part, OPEN_DIRECTORY if current is not None else OPEN_DIRECTORY & ~os.O_NOFOLLOW, dir_fd=current
                )
            except FileNotFoundError:
                yield None
                return
            opened.callback(os.close, current)
        yield current


def remove(parent: int, name: str, deadline: float, progress: Progress) -> None:
    """Remove an entry of an open directory and all below it. Raises OutOfTime, or OSError.

    `deadline` is a time of `time.monotonic`.
    """
    trash = _PREFIX + name
    _empty(parent, trash, deadline, progress)
    try:
        os.rename(name, trash, src_dir_fd=parent, dst_dir_fd=parent)
    except FileNotFoundError:
        return
    _empty(parent, trash, deadline, progress)


def _empty(parent: int, trash: str, deadline: float, progress: Progress) -> None:
    """Remove the directory into which a removal moves all others."""
    try:
        found = os.stat(trash, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(trash, dir_fd=parent)
        return
    with _writable(parent, trash) as top:
        number = 0
        while names := _some_names(top):
            for name in names:
                progress()
                if time.monotonic() > deadline:
                    raise OutOfTime
                number = _flatten(top, name, number)
    with suppress(FileNotFoundError):
        os.rmdir(trash, dir_fd=parent)


def _flatten(top: int, name: str, number: int) -> int:
    """Remove one entry of `top`; its directories move to `top`. Returns the next free number for a name."""
    if _unlinked(top, name):
        return number
    with _writable(top, name) as inner:
        while names := _some_names(inner):
            for each in names:
                if not _unlinked(inner, each):
                    number = _move_up(inner, each, top, number)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=top)
    return number


def _move_up(inner: int, name: str, top: int, number: int) -> int:
    """Move a directory to `top`, under the next number that is free there. Returns the one after it."""
    with _writable(inner, name):
        # A directory that may not be written cannot move.
        while True:
            try:
                os.rename(name, f"{_PREFIX}{number}", src_dir_fd=inner, dst_dir_fd=top)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                number += 1
            else:
                return number + 1


def _unlinked(parent: int, name: str) -> bool:
    """Remove an entry that is not a directory with something in it. Returns False for one that is."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
    return True


@contextmanager
def _writable(parent: int, name: str) -> Iterator[int]:
    """A directory, opened, after its owner may read and write it."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(path).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{path}", stat.S_IRWXU)
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path)
    finally:
        os.close(path)
    try:
        yield opened
    finally:
        os.close(opened)


def _some_names(opened: int) -> list[str]:
    with os.scandir(opened) as entries:
        return [entry.name for entry, _ in zip(entries, range(_AT_ONCE), strict=False)]
