"""Processes that nothing ends: their job ends all the same, and says so."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record, utc
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.hpc.supervisor import engine, processes
from ccat_workflow_manager.hpc.supervisor.engine import Engine
from ccat_workflow_manager.hpc.supervisor.index import Index
from ccat_workflow_manager.hpc.supervisor.jobs import Job, Stop, new_job
from ccat_workflow_manager.hpc.supervisor.queue import Limits
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.verdict import facts_of


class NoWatcher:
    """Watches nothing."""

    def watch(self, pidfd: int, job: Job) -> None: ...
    def unwatch(self, pidfd: int) -> None: ...


@pytest.fixture
def job(tmp_path: Path) -> Job:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return new_job(
        {
            "id": "j-1",
            "name": "job",
            "workspace": str(workspace),
            "cpu": 1,
            "memory": 0,
            "time_limit": 60,
            "priority": 0,
        },
        boot="boot",
    )


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """One whose patience is over at once, on a machine where nothing can be killed."""
    killed: list[int] = []

    def send(_: int, pids: Iterable[int]) -> None:
        killed.extend(pids)

    monkeypatch.setattr(engine, "_GIVE_UP_SECONDS", 0.0)
    monkeypatch.setattr(processes, "left_over", lambda *_: {4243, 4242})
    monkeypatch.setattr(process_tree, "send", send)
    return Engine(Index(str(tmp_path)), None, Limits(1000, 1 << 30, 1.0, 1 << 20), NoWatcher(), "boot")


@pytest.mark.parametrize("stopped", [False, True])
def test_what_cannot_be_killed_is_told_when_its_job_is_over(supervisor: Engine, job: Job, stopped: bool) -> None:
    supervisor.keep(job)
    if stopped:
        job.stop, job.kill_at = Stop("cancel", "cancelled on request"), 0.0
    supervisor._script_over(job, ExitRecord("job", 0, finished_at=utc(1.0)))
    assert supervisor.publish_ended() == ["j-1"]
    words = "2 processes of the job could not be killed: 4242, 4243"
    text = Path(job.files.record).read_text()
    assert parse_exit_record(text).left_text == words
    info = info_of(text, None)
    assert (info.status, info.warning) == (JobStatus.CANCELLED if stopped else JobStatus.COMPLETED, words)
    assert facts_of(info).warnings == [words]


def test_without_any_there_is_no_warning(supervisor: Engine, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "left_over", lambda *_: set())
    supervisor.keep(job)
    supervisor._script_over(job, ExitRecord("job", 0, finished_at=utc(1.0)))
    supervisor.publish_ended()
    info = info_of(Path(job.files.record).read_text(), None)
    assert (info.warning, facts_of(info).warnings) == (None, None)
