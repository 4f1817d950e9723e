"""The script of a batch job, run by real shells: one command for all the starts of an attempt."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from shlex import quote

import pytest

from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED, read
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from ccat_workflow_manager.hpc.batch.script import read_starts, render_batch_script, scheduler_log
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission
from tests.support.waiting import PATIENCE

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


class Attempt:
    """An attempt of one job, whose command notes each of its starts and ends with `code`."""

    def __init__(self, directory: Path, shell: str = "dash") -> None:
        self.member = ArrayTask("job-1", str(directory / "workspace"))
        self.files = self.member.files
        self._shell = {"busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}.get(shell, [shell])
        Path(self.member.workspace).mkdir()

    def write(self, code: int) -> None:
        command = ["/bin/sh", "-c", f"echo started >>starts; echo ${{SLURM_JWT-hidden}}; exit {code}"]
        write_script(
            self.files,
            render_job_script(command, environment={}, cwd=self.member.workspace, files=self.files),
        )

    def start(self, job: str, start: str | None = None, *, unset: str = "") -> int:
        """Start the job once. Returns its exit code. `start` are the words of a scheduler that has some."""
        words = '""' if start is None else quote(start)
        text = render_batch_script([self.member], number=job, index=None, home="/", unset=unset, start=words)
        done = subprocess.run(
            self._shell, input=text.encode(), env={"SLURM_JWT": "secret"}, timeout=PATIENCE, check=False
        )
        return done.returncode

    @property
    def runs(self) -> int:
        return len(Path(self.member.workspace, "starts").read_text().split())


@pytest.fixture(params=SHELLS)
def attempt(request: pytest.FixtureRequest, tmp_path: Path) -> Attempt:
    return Attempt(tmp_path, request.param)


@pytest.mark.parametrize("code", [0, 3])
def test_a_start_that_the_scheduler_has_forgotten(attempt: Attempt, code: int) -> None:
    """The same array task starts as another job. It ends as the first start did."""
    attempt.write(code)
    assert attempt.start("7", "8 0") == code
    assert read_starts(attempt.files) == []
    assert attempt.start("7", "9 0") == code
    assert attempt.start("7", "9 0") == code
    assert attempt.runs == 1
    assert len(read_starts(attempt.files)) == 2
    claim = read(attempt.files)
    assert claim is not None
    assert (claim.owner, claim.start) == ("7", "8 0")


@pytest.mark.parametrize("code", [0, 137, 143])
def test_a_forgotten_start_that_was_killed(attempt: Attempt, code: int) -> None:
    """Its script was killed too, or has recorded the end."""
    attempt.write(code)
    attempt.start("7", "8 0")
    if code == 0:
        Path(attempt.files.record).unlink()
    for again in ("9 0", "8 0"):
        assert attempt.start("7", again) == NOT_STARTED
    assert attempt.runs == 1


@pytest.mark.parametrize("code", [0, 3, 143])
def test_a_requeue(attempt: Attempt, code: int) -> None:
    """The command runs again, however it has ended when the requeue stopped it."""
    attempt.write(code)
    assert attempt.start("7", "7 0") == code
    assert attempt.start("7", "7 1") == code
    assert attempt.runs == 2


def test_a_requeue_without_a_record(attempt: Attempt) -> None:
    attempt.write(0)
    attempt.start("7", "7 0")
    Path(attempt.files.record).unlink()
    assert attempt.start("7", "7 1") == 0
    assert attempt.runs == 2
    Path(attempt.files.record).unlink()
    assert attempt.start("7", "7 1") == NOT_STARTED


def test_a_scheduler_without_words_for_starts(attempt: Attempt) -> None:
    attempt.write(143)
    attempt.start("7")
    assert attempt.start("7") == 143
    assert attempt.runs == 2
    attempt.write(0)
    assert attempt.start("7") == 0
    assert attempt.start("7") == 0
    assert attempt.runs == 3
    assert attempt.start("8") == NOT_STARTED


def test_a_second_life_follows_no_links_of_the_first(attempt: Attempt, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    attempt.write(143)
    attempt.start("7", "7 0")
    for log in (attempt.files.stdout, attempt.files.stderr):
        Path(log).unlink()
        Path(log).symlink_to(victim)
    attempt.start("7", "7 1")
    assert attempt.runs == 2
    assert victim.read_text() == "whole"
    assert Path(attempt.files.stdout).read_text() == "secret\n"


def test_the_log_of_the_scheduler_lies_where_no_container_writes(tmp_path: Path) -> None:
    member = ArrayTask("ccat-0123456789abcdef0123456789abcdef-1", str(tmp_path / "attempt-1" / "workspace"))
    log = scheduler_log(Submission("one", False, (member,), 0, 0))
    assert Path(log).parent == tmp_path / "attempt-1"


def test_variables_that_the_command_does_not_see(attempt: Attempt) -> None:
    attempt.write(0)
    attempt.start("7", unset="SLURM_JWT")
    assert Path(attempt.files.stdout).read_text() == "hidden\n"
