"""Files that a job has replaced are not read."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import read_logs, tail_log
from ccat_workflow_manager.hpc.attempt.opener import UnsafeFile, read_small
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record, read_record


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def _huge(path: Path) -> None:
    path.write_bytes(b"{" * 70_000)


REPLACEMENTS: dict[str, Callable[[Path], None]] = {
    "link": lambda path: path.symlink_to(path.parent / "secret"),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "socket": _socket,
    "huge file": _huge,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    return tmp_path


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_replaced_file(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)  # the name of a socket has to be short
    REPLACEMENTS[kind](Path("record"))
    with pytest.raises(UnsafeFile):
        read_small(str(root / "record"), root=str(root))


@pytest.mark.parametrize("closed", ["a", "a/b", "a/b/record"])
def test_closed_by_its_job(root: Path, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`chmod 000` is the act of the job; any other refusal is that of the filesystem."""
    monkeypatch.setattr(os, "open", _refusing(os.open))
    (root / "a" / "b").mkdir(parents=True)
    record = root / "a" / "b" / "record"
    record.write_text("mine")
    assert read_small(str(record), root=str(root / "a")) is not None
    (root / closed).chmod(0)
    try:
        with pytest.raises(UnsafeFile):
            read_small(str(record), root=str(root / "a"))
    finally:
        (root / closed).chmod(0o755)
    monkeypatch.setattr(os, "open", _refusing(os.open, 0o7777))
    with pytest.raises(PermissionError):
        read_small(str(record), root=str(root / "a"))


def _refusing(opened: Callable[..., int], ignored: int = 0) -> Callable[..., int]:
    """`os.open` for a user who is not root: it obeys permissions, all but those that are `ignored`."""

    def open_(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if not os.stat(path, dir_fd=dir_fd).st_mode & 0o400 & ~ignored:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, flags, mode, dir_fd=dir_fd)

    return open_


def test_device() -> None:
    with pytest.raises(UnsafeFile):
        read_small("/dev/null", root="/dev")


@pytest.mark.parametrize("component", ["a", "a/b"])
def test_link_in_a_middle_component(root: Path, component: str) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("mine")
    assert read_small(str(root / "a/b/file"), root=str(root)) is not None
    (root / component).rename(root / "moved")
    (root / component).symlink_to(root / "moved")
    assert (root / "a/b/file").read_text() == "mine"
    with pytest.raises(UnsafeFile):
        read_small(str(root / "a/b/file"), root=str(root))


def test_links_of_the_root_itself_are_followed(root: Path) -> None:
    (root / "alias").symlink_to(root)
    found = read_small(str(root / "alias" / "secret"), root=str(root / "alias"))
    assert found is not None
    assert found.text == "secret"


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "."])
def test_path_that_leaves_the_root(root: Path, path: str) -> None:
    (root / "inner").mkdir()
    with pytest.raises(ValueError, match="not below"):
        read_small(f"{root}/inner/{path}", root=str(root / "inner"))


def test_missing_file(root: Path) -> None:
    assert read_small(str(root / "none"), root=str(root)) is None
    assert read_small(str(root / "none" / "none"), root=str(root)) is None
    assert read_small(str(root / "none" / "none"), root=str(root / "none")) is None


def test_a_directory_of_logs_that_is_a_link(root: Path) -> None:
    files = AttemptFiles.of(str(root / "workspace"), "job")
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "stdout.log").write_text("secret\n")
    Path(files.logs).symlink_to(root / "elsewhere")
    assert read_logs(files) == tail_log(files, "stdout", 3) == ""


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_a_record_that_was_replaced_is_unreadable(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = AttemptFiles.of(str(root / "workspace"), "job")
    monkeypatch.chdir(root)
    REPLACEMENTS[kind](Path(files.record).relative_to(root))
    text = read_record(files)
    assert text is not None
    with pytest.raises(ValueError, match=r"job\.exit\.json"):
        parse_exit_record(text)
