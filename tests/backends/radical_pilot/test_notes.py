"""What processes learn from each other's notes, without any pilot."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.radical_pilot import link as links
from ccat_workflow_manager.hpc.radical_pilot import pilot_dir
from ccat_workflow_manager.hpc.radical_pilot.backend import RadicalPilotBackend
from ccat_workflow_manager.hpc.radical_pilot.pilot_dir import KEEP_SECONDS, PilotDir, PilotNote
from ccat_workflow_manager.hpc.radical_pilot.store import JobStore, Ticket, claim_of
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources

Job = Callable[..., Ticket]


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RadicalPilotBackend]:
    """One that cannot start a pilot."""

    def nothing(link: links.PilotLink) -> None:
        raise BackendUnavailable("no pilot today", backend="radical_pilot")

    monkeypatch.setattr(links.PilotLink, "_start", nothing)
    backend = RadicalPilotBackend(state_dir=tmp_path / "state")
    yield backend
    backend.close()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Write down a job of a pilot that is looked after, by default by this process."""

    def make(name: str = "ccat-1", *, pilot: str = "pilot-1", keeper: int | None = os.getpid()) -> Ticket:
        directory = PilotDir(tmp_path / "state" / "pilots" / pilot)
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.set_note(PilotNote(pilot_dir.ACTIVE, "all places of the pilot are taken", until=time.time() + 999))
        if keeper is not None:
            directory.set_keeper(keeper)
        else:
            (directory.path / "bridge.json").write_text('{"host": "elsewhere", "boot": "b", "pid": 1, "started": 1}')
        workspace = tmp_path / name / "workspace"
        workspace.mkdir(parents=True)
        ticket = Ticket(name, str(workspace), 1, 0, 10, 60, 0, time.time(), pilot)
        store = JobStore(tmp_path / "state" / "jobs")
        assert store.add(ticket)
        assert not store.add(replace(ticket, cores=2))
        return ticket

    return make


def claim(ticket: Ticket, pilot: str = "pilot-1") -> None:
    Path(ticket.base + ".claim").write_text(f"{pilot} node7\n")


def test_a_job_of_another_process_is_followed_and_cancelled(backend: RadicalPilotBackend, job: Job) -> None:
    ticket = job()
    assert backend.get_status("ccat-1").message == "all places of the pilot are taken"
    claim(ticket)
    info = backend.get_status("ccat-1")
    assert (info.status, info.node) == (JobStatus.RUNNING, "node7")
    backend.cancel("ccat-1")
    assert Path(ticket.base + ".stop").read_text() == "cancel\n"
    assert backend.get_status("ccat-1").status is JobStatus.RUNNING
    Path(ticket.base + ".stopped").write_text("cancel\n")
    Path(ticket.files.record).write_text(ExitRecord("ccat-1", 143).to_json())
    assert backend.get_status("ccat-1").status is JobStatus.CANCELLED
    assert backend.list_jobs() == []
    backend.cleanup("ccat-1")
    assert backend.find("ccat-1") is None


def test_a_waiting_job_is_cancelled_for_good_without_any_pilot(backend: RadicalPilotBackend, job: Job) -> None:
    ticket = job(keeper=None)
    backend.cancel("ccat-1")
    found = claim_of(ticket)
    assert found is not None
    assert found.pilot == "cancelled"
    assert backend.get_status("ccat-1").status is JobStatus.CANCELLED


def test_a_cancel_that_was_interrupted_is_finished_by_whoever_looks(
    backend: RadicalPilotBackend, job: Job, tmp_path: Path
) -> None:
    job()
    JobStore(tmp_path / "state" / "jobs").set_cancelled("ccat-1", time.time())
    assert backend.get_status("ccat-1").status is JobStatus.CANCELLED


def test_a_pilot_on_another_machine_lives_by_its_beat(backend: RadicalPilotBackend, job: Job, tmp_path: Path) -> None:
    ticket = job(keeper=None)
    claim(ticket)
    assert backend.get_status("ccat-1").status is JobStatus.UNKNOWN
    PilotDir(tmp_path / "state" / "pilots" / "pilot-1").beat(7)
    assert backend.get_status("ccat-1").status is JobStatus.RUNNING


def test_what_waits_for_a_pilot_that_is_gone_waits_for_the_next(backend: RadicalPilotBackend, job: Job) -> None:
    job(keeper=None)
    info = backend.get_status("ccat-1")
    assert (info.status, info.message) == (JobStatus.PENDING, "no pilot today")
    assert [seen.job_name for seen in backend.list_jobs()] == ["ccat-1"]


def test_the_one_that_claimed_it_counts_and_not_the_one_it_was_given_to(backend: RadicalPilotBackend, job: Job) -> None:
    """A pilot that is about to end may start a job that is already handed over to the next."""
    job("ccat-2", pilot="pilot-0", keeper=None)
    ticket = job("ccat-1", pilot="pilot-1")
    claim(ticket, "pilot-0")
    assert backend.get_status("ccat-1").status is JobStatus.UNKNOWN


def test_what_pilots_have_left_goes_after_a_week(backend: RadicalPilotBackend, tmp_path: Path, job: Job) -> None:
    job(keeper=None)
    pilots = tmp_path / "state" / "pilots"
    pilot_dir.remove_old(pilots)
    assert (pilots / "pilot-1").exists()
    long_ago = time.time() - KEEP_SECONDS - 10
    os.utime(pilots / "pilot-1", (long_ago, long_ago))
    pilot_dir.remove_old(pilots)
    assert not (pilots / "pilot-1").exists()


def test_more_time_than_a_pilot_has_is_refused_before_any_is_started(tmp_path: Path) -> None:
    backend = RadicalPilotBackend(state_dir=tmp_path / "state", walltime_minutes=30)
    with pytest.raises(BackendRejected, match="RADICAL_PILOT_WALLTIME_MINUTES"):
        backend.submit(
            execution_command=["true"],
            image_ref=None,
            sif_path=None,
            input_dir="",
            output_dir="",
            workspace_dir=str(tmp_path / "workspace"),
            manifest_path="",
            resource_requirements=Resources(time_hours=1),
            environment_variables={},
            job_name="ccat-1",
        )
    assert not (tmp_path / "state" / "pilots").exists()
    backend.close()
