"""The backend at recorded jobs and pilots, without RADICAL-Pilot."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.radical_pilot import backend as backend_module
from ccat_workflow_manager.hpc.radical_pilot.agent_client import AgentClient
from ccat_workflow_manager.hpc.radical_pilot.backend import RadicalPilotBackend
from ccat_workflow_manager.hpc.radical_pilot.job import JobStore, PilotJob
from ccat_workflow_manager.hpc.radical_pilot.pilot import ACTIVE, KEEP_SECONDS, Pilots, PilotState
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources

PILOT = "pilot-1"
Job = Callable[..., PilotJob]


def pilot_backend(tmp_path: Path, **settings: Any) -> RadicalPilotBackend:
    return RadicalPilotBackend(**{"state_dir": tmp_path / "state", "trusted_network": True, **settings})


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RadicalPilotBackend]:
    """One that cannot start a pilot."""

    def refuse(*_: object) -> None:
        raise BackendUnavailable("no pilot today", backend="radical_pilot")

    for call in ("ready", "give"):
        monkeypatch.setattr(AgentClient, call, refuse)
    backend = pilot_backend(tmp_path)
    yield backend
    backend.close()


@pytest.fixture
def pilots(tmp_path: Path) -> Pilots:
    return Pilots(tmp_path / "state")


@pytest.fixture
def job(tmp_path: Path, pilots: Pilots) -> Job:
    """Records a job, and its pilot: with an agent on this machine, or with a silent one on another."""

    def make(name: str = "ccat-1", *, pilot: str = PILOT, here: bool = True) -> PilotJob:
        agent = HostProcess.of(os.getpid()) if here else HostProcess("elsewhere", "boot", 1, 1)
        pilots.path(pilot).mkdir()
        pilots.states.put(pilot, PilotState(agent, ACTIVE, "all places are taken", until=time.time() + 999))
        workspace = tmp_path / name / "workspace"
        workspace.mkdir(parents=True)
        job = PilotJob(name, str(workspace), 1, 0, Limits(), 0, time.time(), pilot)
        JobStore(tmp_path / "state").jobs.put(name, job)
        return job

    return make


def end(job: PilotJob, record: ExitRecord) -> None:
    Path(job.files.record).write_text(record.to_json())


def test_a_job_of_another_process_is_followed_and_cancelled(backend: RadicalPilotBackend, job: Job) -> None:
    found = job()
    assert backend.get_status("ccat-1").message == "all places are taken"
    claims.take(found.files, PILOT)
    info = backend.get_status("ccat-1")
    assert (info.status, info.node) == (JobStatus.RUNNING, os.uname().nodename)
    backend.cancel("ccat-1")
    assert claims.cancel_requested_at(found.files)
    assert backend.get_status("ccat-1").status is JobStatus.RUNNING
    end(found, ExitRecord("ccat-1", 143, stopped_by="cancel"))
    assert backend.get_status("ccat-1").status is JobStatus.CANCELLED
    assert backend.list_jobs() == []
    backend.cleanup("ccat-1")
    assert backend.find("ccat-1") is None


def test_a_waiting_job_is_cancelled_without_any_pilot(backend: RadicalPilotBackend, job: Job) -> None:
    found = job(here=False)
    backend.cancel("ccat-1")
    assert not claims.take(found.files, PILOT)
    assert backend.get_status("ccat-1").status is JobStatus.CANCELLED


def test_an_agent_on_another_machine_lives_by_its_beat(backend: RadicalPilotBackend, job: Job, pilots: Pilots) -> None:
    found = job(here=False)
    claims.take(found.files, PILOT)
    os.utime(found.files.claim, (1, 1))
    assert backend.get_status("ccat-1").status is JobStatus.UNKNOWN
    pilots.beat(PILOT, "7")
    assert backend.get_status("ccat-1").status is JobStatus.RUNNING


def test_a_job_that_waits_for_an_ended_pilot_waits_for_the_next(backend: RadicalPilotBackend, job: Job) -> None:
    job(here=False)
    info = backend.get_status("ccat-1")
    assert (info.status, info.message) == (JobStatus.PENDING, "no pilot today")
    assert [seen.job_name for seen in backend.list_jobs()] == ["ccat-1"]


def test_the_pilot_counts_that_claimed_the_job(backend: RadicalPilotBackend, job: Job) -> None:
    """A pilot that is about to end may start a job that is given to the next one already."""
    job("ccat-2", pilot="pilot-0", here=False)
    found = job("ccat-1")
    claims.take(found.files, "pilot-0")
    os.utime(found.files.claim, (1, 1))
    assert backend.get_status("ccat-1").status is JobStatus.UNKNOWN


def test_pilots_are_removed_after_a_week(pilots: Pilots, job: Job) -> None:
    job(here=False)
    pilots.beat(PILOT, "1")
    pilots.remove_old()
    assert pilots.path(PILOT).exists()
    long_ago = time.time() - KEEP_SECONDS - 10
    os.utime(pilots.path(PILOT) / "alive", (long_ago, long_ago))
    pilots.remove_old()
    assert not pilots.path(PILOT).exists()
    assert pilots.states.ids() == []


def test_one_bad_record_concerns_one_job(backend: RadicalPilotBackend, job: Job) -> None:
    good, bad = job("ccat-1"), job("ccat-2", pilot="pilot-2")
    for each in (good, bad):
        claims.take(each.files, each.pilot)
        end(each, ExitRecord(each.job_id, 0))
    Path(bad.files.record).unlink()
    os.symlink("/etc/hostname", bad.files.record)
    infos = backend.get_statuses(["ccat-1", "ccat-2"])
    assert [info.status for info in infos.values()] == [JobStatus.COMPLETED, JobStatus.FAILED]


def test_more_time_than_a_pilot_has_is_refused_before_any_is_started(tmp_path: Path) -> None:
    backend = pilot_backend(tmp_path, walltime_minutes=30)
    request = JobRequest(
        execution_command=["true"], workspace_dir=str(tmp_path / "workspace"), job_name="ccat-1",
        resource_requirements=Resources(time_hours=1),
    )  # fmt: skip
    [refused] = backend.submit_many([request])
    assert isinstance(refused, BackendRejected)
    assert "RADICAL_PILOT_WALLTIME_MINUTES" in refused.message
    assert Pilots(tmp_path / "state").states.ids() == []
    backend.close()


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"state_dir": "/tmp/two words"}, "RADICAL_PILOT_STATE_DIR"),
        ({"resource": "frontier"}, "RADICAL_PILOT_RESOURCE"),
        ({"trusted_network": False}, "RADICAL_PILOT_TRUSTED_NETWORK=true"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, setting: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        pilot_backend(tmp_path, **setting)


def test_without_the_package_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleSpec | None:
        raise ModuleNotFoundError(name)

    for find in (missing, lambda name: None):
        monkeypatch.setattr(backend_module, "find_spec", find)
        found = RadicalPilotBackend.is_available()
        assert not found.available
        assert "[radical_pilot]" in found.installation_hint


def test_a_job_is_recorded_once(tmp_path: Path, job: Job) -> None:
    found = job()
    store = JobStore(tmp_path / "state")
    assert not store.jobs.add(found.job_id, replace(found, cores=2))
    assert store.jobs.get(found.job_id) == found
