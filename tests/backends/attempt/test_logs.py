"""The end of a log, however long it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.attempt.logs import last_lines, read_end


@pytest.mark.parametrize(
    ("text", "lines", "tail"),
    [
        ("", 3, ""),
        ("a\nb\nc\n", 2, "b\nc\n"),
        ("a\nb\nc", 2, "b\nc"),
        ("a\nb\nc\n", 9, "a\nb\nc\n"),
        ("a\n\n\n", 2, "\n\n"),
        ("a\nb\n", 0, ""),
        ("a\nb\n", -1, ""),
    ],
)
def test_last_lines(tmp_path: Path, text: str, lines: int, tail: str) -> None:
    (tmp_path / "log").write_text(text)
    assert last_lines(str(tmp_path / "log"), lines, root=str(tmp_path)) == tail


def test_last_lines_across_blocks(tmp_path: Path) -> None:
    rows = [f"{number:0100d}\n" for number in range(5000)]
    (tmp_path / "log").write_text("".join(rows))
    assert last_lines(str(tmp_path / "log"), 3000, root=str(tmp_path)) == "".join(rows[-3000:])


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 1_000_000)
    assert len(last_lines(str(tmp_path / "log"), 5, limit=100_000, root=str(tmp_path))) <= 200_000
    assert read_end(str(tmp_path / "log"), limit=10, root=str(tmp_path)) == "x" * 10


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    assert (
        read_end(str(tmp_path / "none"), root=str(tmp_path))
        == last_lines(str(tmp_path / "none"), 3, root=str(tmp_path))
        == ""
    )
    (tmp_path / "log").write_bytes(b"a\xff\nb\n")
    assert read_end(str(tmp_path / "log"), root=str(tmp_path)) == "a\ufffd\nb\n"
    assert last_lines(str(tmp_path / "log"), 2, root=str(tmp_path)) == "a\ufffd\nb\n"


def test_a_link_under_the_name_of_a_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "stdout.log").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "stderr.log")
    for name in ("stdout.log", "stderr.log"):
        assert read_end(str(tmp_path / name), root=str(tmp_path)) == ""
        assert last_lines(str(tmp_path / name), 5, root=str(tmp_path)) == ""
