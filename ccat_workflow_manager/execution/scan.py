"""Scan an output directory, whose content is not trusted.

No link is followed: directories are opened relative to the descriptor of their parent, files with O_NOFOLLOW. Anything
but a file, a directory, or a link that stays inside raises OutputError.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ccat_workflow_manager.errors import OutputError
from ccat_workflow_manager.execution.output_limits import Budget, invalid
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.opener import OPEN_DIRECTORY, OPEN_FILE, stays_inside

MAX_DEPTH = 64
_CHUNK = 1024 * 1024
_SET_ID = stat.S_ISUID | stat.S_ISGID
_ENTRY_WORK, _FILE_WORK = 1024, 64 * 1024
"""The time to read a name, and to open a file, in bytes that are read meanwhile."""


@dataclass(frozen=True, slots=True)
class Found:
    """A product on disk: a file, or a directory that is one product."""

    path: str
    size: int
    sha256: str
    is_directory: bool = False
    file_count: int = 1


class Scanner:
    """Walks one output directory within a budget."""

    def __init__(
        self, is_product_directory: Callable[[str], bool], budget: Budget, unread: Collection[str] = ()
    ) -> None:
        """`unread` are paths that are no product, whatever they are."""
        self._unread = unread
        self._is_product_directory = is_product_directory
        self._budget = budget

    def scan(self, root: int) -> list[Found]:
        """The products below the open directory `root`, sorted by path."""
        found = list(self._walk(root, "", 0))
        found.sort(key=lambda product: product.path)
        return found

    def _walk(self, directory: int, prefix: str, depth: int) -> Iterator[Found]:
        for name, path in self._names(directory, prefix):
            if path in self._unread:
                continue
            mode = _stat(name, path, directory).st_mode
            if stat.S_ISDIR(mode):
                with open_directory(name, path, directory, depth) as inner:
                    if self._is_product_directory(path):
                        self._budget.product(path)
                        yield self._tree(inner, path)
                    else:
                        yield from self._walk(inner, f"{path}/", depth + 1)
            elif stat.S_ISREG(mode):
                self._budget.product(path)
                size, digest = self._hash(name, path, directory)
                yield Found(path, size, digest)
            else:
                _link(name, path, directory, mode)

    def _tree(self, directory: int, path: str) -> Found:
        """A directory as one product. Its digest is that of the sorted list of its names, sizes and digests."""
        lines: list[tuple[str, str]] = []
        total = files = 0

        def visit(inner: int, prefix: str, depth: int) -> None:
            nonlocal total, files
            for name, entry in self._names(inner, prefix):
                mode = _stat(name, entry, inner).st_mode
                relative = entry[len(path) + 1 :]
                if stat.S_ISDIR(mode):
                    lines.append((relative, "directory"))
                    with open_directory(name, entry, inner, depth) as below:
                        visit(below, f"{entry}/", depth + 1)
                elif stat.S_ISREG(mode):
                    size, digest = self._hash(name, entry, inner)
                    total, files = total + size, files + 1
                    lines.append((relative, f"file {size} {digest}"))
                else:
                    lines.append((relative, f"link {_link(name, entry, inner, mode)}"))

        visit(directory, f"{path}/", path.count("/") + 1)
        return Found(path, total, tree_checksum(lines), is_directory=True, file_count=files)

    def _names(self, directory: int, prefix: str) -> list[tuple[str, str]]:
        """The names in a directory, sorted, with their paths."""
        names = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    path = prefix + entry.name
                    _check_utf8(entry.name, path)
                    self._budget.entry(path)
                    self._budget.work(path, _ENTRY_WORK)
                    names.append((entry.name, path))
        except OSError as error:
            raise _unreadable(prefix.rstrip("/") or "output", error) from error
        return sorted(names)

    def _hash(self, name: str, path: str, directory: int) -> tuple[int, str]:
        """Size and SHA-256 of a file. Raises OutputError if it changes meanwhile."""
        with open_file(name, path, directory) as file:
            before = os.fstat(file)
            _drop_set_id(file, before.st_mode, path)
            self._budget.file(path, before.st_size, before.st_blocks * 512)
            digest = hashlib.sha256()
            unread = before.st_size
            try:
                while unread >= 0 and (chunk := os.read(file, _CHUNK)):
                    unread -= len(chunk)
                    digest.update(chunk)
                    self._budget.work(path, len(chunk))
            except OSError as error:
                raise _unreadable(path, error) from error
            after = os.fstat(file)
        if unread or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OutputError(FailureReason.OUTPUT_UNREADABLE, f"{path} was still being written when it was collected")
        self._budget.work(path, _FILE_WORK)
        return after.st_size, digest.hexdigest()


def tree_checksum(lines: Iterable[tuple[str, str]]) -> str:
    """The checksum of a directory: of each path in it with `directory`, `file SIZE SHA256` or `link TARGET`."""
    tree = hashlib.sha256()
    for relative, what in sorted(lines):
        tree.update(f"{what}\0{relative}\0".encode())
    return tree.hexdigest()


def _drop_set_id(file: int, mode: int, path: str) -> None:
    """Take the set-user-id and set-group-id bits away: a user who runs a product keeps his own rights."""
    if mode & _SET_ID:
        try:
            os.fchmod(file, stat.S_IMODE(mode) & ~_SET_ID)
        except OSError:
            invalid(f"{path} has a set-user-id or set-group-id bit, which cannot be removed")


def _check_utf8(name: str, path: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        invalid(f"the file name '{_escaped(path)}' is not UTF-8")


def _escaped(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _link(name: str, path: str, directory: int, mode: int) -> str:
    """The target of a link that stays inside."""
    if not stat.S_ISLNK(mode):
        invalid(f"{path} is neither a file nor a directory")
    try:
        target = os.readlink(name, dir_fd=directory)
        target.encode()
    except UnicodeEncodeError:
        invalid(f"{path} is a link to '{_escaped(target)}', which is not UTF-8")
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stays_inside(path, target):
        invalid(f"{path} is a link to {target!r}, which leads out of the output directory")
    return target


def _stat(name: str, path: str, directory: int) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        raise _unreadable(path, error) from error


@contextmanager
def open_directory(name: str, path: str, parent: int | None = None, depth: int = 0) -> Iterator[int]:
    """The descriptor of a directory. Raises OutputError for a link."""
    if depth >= MAX_DEPTH:
        invalid(f"{path} is more than {MAX_DEPTH} directories deep")
    with _opened(name, path, OPEN_DIRECTORY, parent) as descriptor:
        yield descriptor


@contextmanager
def open_file(name: str, path: str, parent: int | None = None) -> Iterator[int]:
    """The descriptor of a regular file. Raises OutputError for a link."""
    with _opened(name, path, OPEN_FILE, parent) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            invalid(f"{path} is not a regular file")
        yield descriptor


@contextmanager
def _opened(name: str, path: str, flags: int, parent: int | None) -> Iterator[int]:
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            invalid(f"{path} is a link or changed while it was collected")
        raise _unreadable(path, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unreadable(path: str, error: OSError) -> OutputError:
    return OutputError(FailureReason.OUTPUT_UNREADABLE, f"{path} cannot be read: {error.strerror}")
