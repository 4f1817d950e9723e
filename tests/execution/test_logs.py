"""Reading logs: tails of large ones, growing ones, and files that are not logs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccat_workflow_manager.errors import NotFound, OutputError
from ccat_workflow_manager.execution import logs
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs, create
from ccat_workflow_manager.execution.logs import LogChunk, check_log_limit, read_log, tail_text
from ccat_workflow_manager.failures import FailureReason

LINES = st.lists(st.text("aé\n", max_size=9), max_size=9)


@pytest.fixture
def dirs(tmp_path: Path) -> AttemptDirs:
    made = attempt_dirs(str(tmp_path), "p", "r", "s", "k", 1)
    create(made, contained=False)
    return made


def test_a_missing_log_is_empty(dirs: AttemptDirs) -> None:
    assert read_log(dirs) == LogChunk("", 0, 0, 0)
    assert tail_text(dirs) == ""
    with pytest.raises(NotFound):
        read_log(dirs, "stdlog")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, end=st.sampled_from(["", "\n"]), tail=st.integers(0, 12))
def test_the_tail_is_the_last_lines(
    dirs: AttemptDirs, monkeypatch: pytest.MonkeyPatch, lines: list[str], end: str, tail: int
) -> None:
    monkeypatch.setattr(logs, "_BLOCK", 3)
    text = "\n".join(lines) + end
    Path(dirs.stdout).write_text(text, encoding="utf-8")
    pieces = text.split("\n")
    pieces = [piece + "\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
    assert read_log(dirs, tail=tail).text == "".join(pieces[len(pieces) - tail :] if tail < len(pieces) else pieces)


def test_the_tail_of_a_huge_log_needs_no_full_read(dirs: AttemptDirs) -> None:
    with open(dirs.stdout, "wb") as file:
        file.truncate(20 * 1024**3)
        file.seek(0, os.SEEK_END)
        file.write(b"\nfirst\nlast\n")
    assert read_log(dirs, tail=2).text == "first\nlast\n"
    whole = read_log(dirs, tail=10, max_bytes=1000)
    assert len(whole.text) == 1000
    assert whole.next_offset == whole.size
    assert whole.truncated
    assert not read_log(dirs, tail=2).truncated


def test_following_by_offset_never_cuts_a_character(dirs: AttemptDirs) -> None:
    data = "héllo wörld 日本語\n".encode()
    text, offset = "", 0
    with open(dirs.stderr, "wb", buffering=0) as file:
        for byte in data:
            file.write(bytes([byte]))
            chunk = read_log(dirs, "stderr", offset=offset)
            text, offset = text + chunk.text, chunk.next_offset
    assert text == data.decode()
    assert offset == len(data)
    assert read_log(dirs, "stderr", offset=offset + 99).text == ""


def test_bytes_that_are_not_utf8(dirs: AttemptDirs) -> None:
    Path(dirs.stdout).write_bytes(b"ok \xff\xfe\x80 ok")
    assert read_log(dirs).text == "ok \ufffd\ufffd\ufffd ok"


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_only_regular_files_are_read(dirs: AttemptDirs, kind: str) -> None:
    if kind == "link":
        os.symlink("/etc/passwd", dirs.stdout)
    elif kind == "pipe":
        os.mkfifo(dirs.stdout)
    else:
        os.mkdir(dirs.stdout)
    with pytest.raises(OutputError):
        read_log(dirs)
    assert tail_text(dirs, "stdout") == ""


def test_the_limit(dirs: AttemptDirs) -> None:
    check_log_limit(dirs, 1)
    with open(dirs.stderr, "wb") as file:
        file.truncate(2 * 1024**2)
    check_log_limit(dirs, 2)
    with pytest.raises(OutputError, match="2 MB of log") as refused:
        check_log_limit(dirs, 1)
    assert refused.value.reason is FailureReason.LOG_LIMIT
