"""Files that a job has replaced are not read."""

from __future__ import annotations

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
