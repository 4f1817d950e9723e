"""The job script for backends that write none: a second job of an attempt starts nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from ccat_workflow_manager.execution.exit_record import read_end, recorded_end, wrapped
from ccat_workflow_manager.execution.launch_spec import StepLaunch
from ccat_workflow_manager.execution.runtime import NO_RUNTIME
from ccat_workflow_manager.execution.staging import Staged, stage
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from tests.support.waiting import PATIENCE, wait_until

TEXT = "echo x >>starts; until [ -e go ]; do sleep 0.05; done; exit 3"


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    step = StepLaunch("p", str(uuid4()), "s", "k", 1, ["/bin/sh", "-c", TEXT])
    return stage(step, base_dir=str(tmp_path), sif_cache_dir="", runtime=NO_RUNTIME)


def start(staged: Staged) -> subprocess.Popen[bytes]:
    return subprocess.Popen(wrapped(staged.launch, staged.dirs, "job"), env={}, stderr=subprocess.DEVNULL)


def test_a_second_job_ends_as_the_first(staged: Staged) -> None:
    workspace = Path(staged.dirs.workspace)
    first = start(staged)
    wait_until((workspace / "starts").exists, 10, "the first job")
    second = start(staged)
    (workspace / "go").touch()
    assert [job.wait(PATIENCE) for job in (first, second)] == [3, 3]
    assert start(staged).wait(PATIENCE) == 3
    assert (workspace / "starts").read_text() == "x\n"


def test_a_second_job_does_not_wait_for_a_dead_one(staged: Staged) -> None:
    first = start(staged)
    wait_until((Path(staged.dirs.workspace) / "starts").exists, 10, "the first job")
    first.kill()
    first.wait(PATIENCE)
    assert start(staged).wait(PATIENCE) == NOT_STARTED
    (Path(staged.dirs.workspace) / "go").touch()
    info = read_end(HPCJobInfo(JobStatus.FAILED, NOT_STARTED), staged.dirs, "job", NO_RUNTIME)
    assert info.reason is FailureReason.BACKEND_FAILED


def test_the_script_is_private(staged: Staged) -> None:
    wrapped(staged.launch, staged.dirs, "job")
    assert Path(AttemptFiles.of(staged.dirs.workspace, "job").script).stat().st_mode & 0o077 == 0


def test_a_record_tells_the_end_of_a_forgotten_job(staged: Staged) -> None:
    workspace = Path(staged.dirs.workspace)
    assert recorded_end(staged.dirs, "job") is None
    (workspace / "go").touch()
    start(staged).wait(PATIENCE)
    info = recorded_end(staged.dirs, "job")
    assert info is not None
    assert (info.status, info.exit_code, info.reason) == (JobStatus.FAILED, 3, FailureReason.PROGRAM_FAILED)
    assert recorded_end(staged.dirs, "other") is None
    Path(AttemptFiles.of(staged.dirs.workspace, "job").record).write_text("{")
    assert recorded_end(staged.dirs, "job") is None
