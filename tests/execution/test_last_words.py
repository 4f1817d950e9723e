"""What the end of stderr says about a failure."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from ccat_workflow_manager.execution.exit_record import read_end
from ccat_workflow_manager.execution.last_words import last_line, not_started
from ccat_workflow_manager.execution.launch_spec import StepLaunch
from ccat_workflow_manager.execution.runtime import NO_RUNTIME
from ccat_workflow_manager.execution.staging import stage
from ccat_workflow_manager.failures import FailureReason as R
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.lifecycle.verdict import failure_of

FAILED = HPCJobInfo(JobStatus.FAILED, exit_code=1, wall_time_seconds=1, reason=R.PROGRAM_FAILED)


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        ("Traceback\n  x\nValueError: no header\n\n  \n", "ValueError: no header"),
        ("\x1b[31mred\x1b[0m and \x07bell\x00", "red  and  bell"),
        ("x" * 1000, "x" * 300 + "..."),
        (" \n\n", ""),
    ],
)
def test_the_last_line_is_short_and_plain(stderr: str, line: str) -> None:
    assert last_line(stderr) == line


@pytest.mark.parametrize(
    ("exit_code", "line", "words"),
    [
        (127, "/a/job.sh: 12: exec: reduce.sh: not found", "reduce.sh was not found"),
        (127, "/a/job.sh: line 12: /opt/x: No such file or directory", "/opt/x was not found"),
        (126, "job.sh: 4: exec: /a/reduce.sh: Permission denied", "/a/reduce.sh is not executable: chmod +x"),
        (126, "job.sh: 4: exec: /a/x: Exec format error", "/a/x is not executable"),
        (255, '"nosuch": executable file not found in $PATH', "nosuch was not found"),
        (255, "stat /nosuch: no such file or directory", "nosuch"),
        (255, "stat /nosuch: no such file or directory", "/nosuch was not found"),
        (
            127,
            "/usr/bin/env: 'python3\\r': No such file or directory\n/usr/bin/env: use -[v]S to ...\n",
            "python3 was not",
        ),
        (127, "env: can't execute 'python3\r': No such file or directory", "Windows"),
        (127, "something else", None),
    ],
)
def test_not_found_and_not_executable_are_two_texts(exit_code: int, line: str, words: str | None) -> None:
    found = not_started(exit_code, line)
    assert found is None if words is None else found is not None and words in found


def ended(tmp_path: Path, stderr: str, info: HPCJobInfo = FAILED) -> tuple[R, str]:
    """The reason and the text of an attempt that ended with this stderr."""
    step = StepLaunch("p", str(uuid4()), "s", "k", 1, ["true"])
    staged = stage(step, base_dir=str(tmp_path), sif_cache_dir="", runtime=NO_RUNTIME)
    Path(staged.dirs.stderr).write_text(stderr)
    return failure_of(read_end(info, staged.dirs, "job", NO_RUNTIME), Resources(memory_gb=0.5, time_hours=0.1))


def test_a_failure_shows_the_last_line_of_stderr(tmp_path: Path) -> None:
    reason, text = ended(tmp_path, "some\nValueError: no header\n")
    assert reason is R.PROGRAM_FAILED
    assert text.endswith("(exit code 1). Last line of stderr: ValueError: no header")
    assert "stderr" not in ended(tmp_path, "")[1]


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    info = replace(FAILED, exit_code=127, reason=R.COMMAND_NOT_FOUND)
    reason, text = ended(tmp_path, "job.sh: 3: exec: reduce.sh: not found\n", info)
    assert (reason, text) == (R.COMMAND_NOT_FOUND, "reduce.sh was not found; check `command` and the image")


def test_a_program_that_finds_no_space_names_the_disk(tmp_path: Path) -> None:
    reason, text = ended(tmp_path, "OSError: [Errno 28] No space left on device: 'x'\n")
    assert reason is R.DISK_FULL
    assert "GB free; the program found no space: OSError" in text


def test_a_full_disk_is_the_reason_whatever_the_program_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(f_bavail=0, f_frsize=4096, f_blocks=1_000_000, f_files=10, f_favail=5)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    reason, text = ended(tmp_path, "Segmentation fault\n")
    assert (reason, "has 0.00 GB of 4.10 GB free" in text) == (R.DISK_FULL, True)
    full.f_bavail, full.f_favail = 1_000_000, 0
    assert "can hold no more files" in ended(tmp_path, "")[1]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            R.OUT_OF_MEMORY,
            "its 0.5 GB of memory and was stopped (at most 0.49 GB were seen, after 7 s, on n1)",
        ),
        (R.TIME_LIMIT, "time limit of 0.1 h and was stopped (at most 0.49 GB were seen, after 7 s, on n1)"),
        (R.NODE_FAILURE, "failed: n1 (NODE_FAIL)."),
    ],
)
def test_limits_figures_and_nodes_are_named(reason: R, words: str) -> None:
    info = HPCJobInfo(
        JobStatus.FAILED, wall_time_seconds=7, peak_memory_gb=0.49, reason=reason, node="n1", message="NODE_FAIL"
    )
    assert words in failure_of(info, Resources(memory_gb=0.5, time_hours=0.1))[1]


def test_a_terabyte_has_no_exponent() -> None:
    info = HPCJobInfo(JobStatus.FAILED, peak_memory_gb=1533.7, reason=R.OUT_OF_MEMORY)
    assert "(at most 1534 GB were seen)" in failure_of(info, Resources(memory_gb=1533))[1]
