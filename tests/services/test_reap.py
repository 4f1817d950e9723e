"""Reaping: orphans are stopped; jobs that may belong to another deployment are only counted."""

from __future__ import annotations

from contextlib import suppress
from uuid import uuid4

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.commands import checks
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.service import BackendState, backend_states
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.errors import BackendUnavailable, ServiceUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import job_name, parse_job_name
from ccat_workflow_manager.managers.loops import OrphansLoop
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.armed import Injected, Plan
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import launch, poll, row, start

RUNNING = HPCJobInfo(JobStatus.RUNNING)
COMPLETED = HPCJobInfo(JobStatus.COMPLETED, 0)


def start_job(context: Context) -> None:
    start(context)
    assert launch(context) == 1


def complete_job(context: Context, backend: FakeBackend) -> None:
    """A job completes, and reappears as running after its step run was recorded as COMPLETED."""
    start_job(context)
    backend.set_state("fake-1", COMPLETED)
    poll(context)
    backend.set_state("fake-1", RUNNING)


def add_foreign_job(backend: FakeBackend, name: str) -> None:
    """A job that this deployment has not submitted."""
    backend.set_state(backend.accept(JobRequest(job_name=name)), RUNNING)


def reap(context: Context, *, later_seconds: float = 3600) -> int:
    """Reap as if every event were older by so much."""
    with context.database.begin() as unit:
        unit.execute("UPDATE events SET at = at - :s * interval '1 second'", {"s": later_seconds})
        unit.execute("UPDATE backends SET reaped_at = NULL")
    return context.reaper.reap("noop")


def state(context: Context) -> BackendState:
    with context.database.read() as unit:
        return backend_states(unit)["noop"]


def test_a_job_name_identifies_its_attempt() -> None:
    step_run_id = uuid4()
    assert parse_job_name(job_name(step_run_id, 12)) == (step_run_id, 12)
    for other in ("ccat-array-0123456789abcdef01234567", f"ccat-{step_run_id}-1", f"x{job_name(step_run_id, 1)}",
                  f"{job_name(step_run_id, 1)}0" + "0" * 9, f"ccat-{step_run_id.hex}-0", ""):  # fmt: skip
        assert parse_job_name(other) is None


def test_an_orphan_is_stopped_and_reported(context: Context, backend: FakeBackend) -> None:
    complete_job(context, backend)
    assert reap(context, later_seconds=60) == 0
    assert backend.cancelled == []
    assert reap(context, later_seconds=120) == 1
    assert backend.cancelled == ["fake-1"]
    assert (state(context).stray_jobs, state(context).strays_stopped) == (1, 1)
    [warning] = row(context, table="attempts").warnings
    assert "fake-1" in warning
    assert reap(context) == 0
    assert (state(context).stray_jobs, state(context).strays_stopped) == (0, 1)
    assert row(context).status == "COMPLETED"


def test_an_orphan_that_does_not_stop_is_asked_again_and_reported_once(context: Context, backend: FakeBackend) -> None:
    backend.stubborn = True
    complete_job(context, backend)
    assert [reap(context), reap(context)] == [1, 1]
    assert backend.cancelled == ["fake-1", "fake-1"]
    assert (state(context).stray_jobs, state(context).strays_stopped) == (1, 1)


def test_the_job_of_an_earlier_attempt_is_an_orphan(context: Context, backend: FakeBackend) -> None:
    """A job is lost, the step run is tried again, and the first job turns up after all."""
    start_job(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE))
    poll(context)
    backend.set_state("fake-1", RUNNING)
    # While the step run waits for its next attempt ...
    assert reap(context, later_seconds=60) == 0
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET not_before = NULL")
    assert context.launcher.launch("noop", 10) == 1
    # ... and during that attempt.
    assert reap(context) == 1
    assert backend.cancelled == ["fake-1"]
    assert backend.jobs["fake-2"].info.status is JobStatus.PENDING


def test_jobs_of_live_attempts_are_left_alone(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    backend.set_state("fake-1", RUNNING)
    assert reap(context) == 0
    # Its worker died before it recorded the submission: the next worker will look for the job.
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET status = 'PENDING', job_id = NULL, lease_owner = NULL, lease_until = NULL")
    assert reap(context) == 0
    assert backend.cancelled == []


def test_foreign_jobs_are_counted_and_left_alone(context: Context, backend: FakeBackend) -> None:
    complete_job(context, backend)
    backend.set_state("fake-1", COMPLETED)
    ours = parse_job_name(backend.jobs["fake-1"].request.job_name)
    assert ours is not None
    # Of another deployment, of an attempt that was never made, of an array whose jobs are not known.
    add_foreign_job(backend, job_name(uuid4(), 1))
    add_foreign_job(backend, job_name(ours[0], 2))
    add_foreign_job(backend, "ccat-array-0123456789abcdef01234567")
    assert reap(context) == 0
    assert backend.cancelled == []
    assert state(context).unknown_jobs == 3


def test_a_job_of_the_same_name_at_another_backend_is_left_alone(context: Context, backend: FakeBackend) -> None:
    complete_job(context, backend)
    elsewhere = FakeBackend()
    context.use_backend("concurrent", elsewhere)
    add_foreign_job(elsewhere, backend.jobs["fake-1"].request.job_name)
    with context.database.begin() as unit:
        unit.execute("UPDATE events SET at = at - interval '1 hour'")
    assert context.reaper.reap("concurrent") == 0
    assert elsewhere.cancelled == []


def test_one_worker_at_a_time_searches_and_an_error_stops_nothing(
    context: Context, backend: FakeBackend, make_context: ContextMaker
) -> None:
    other = make_context("noop")
    other.use_backend("noop", backend)
    complete_job(context, backend)
    backend.status_error = BackendUnavailable("Socket timed out", backend="noop")
    assert reap(context) == 0
    backend.status_error = None
    assert other.reaper.reap("noop") == 0, "it has just been searched"
    assert reap(other) == 1
    assert context.reaper.reap("noop") == 0
    assert backend.cancelled == ["fake-1"]
    # A backend whose jobs cannot be listed can still be used.
    assert state(context).problem is None


@pytest.mark.usefixtures("disarmed")
@pytest.mark.parametrize("point", ["commit.take-reap", "backend.list", "backend.reap", "commit.reaped"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("action", ["raise", "timeout"])
def test_an_interrupted_reaper_goes_on_the_next_time(
    context: Context, backend: FakeBackend, point: str, moment: str, action: str
) -> None:
    complete_job(context, backend)
    failpoints.arm(Plan(f"* {point} {moment} {action}"))
    with suppress(Injected, ServiceUnavailable):
        reap(context)
    failpoints.arm(None)
    reap(context)
    assert set(backend.cancelled) == {"fake-1"}
    assert backend.jobs["fake-1"].info.status is JobStatus.CANCELLED
    assert reap(context) == 0
    assert state(context).stray_jobs == 0


def test_every_served_backend_is_searched(context: Context) -> None:
    loop = OrphansLoop(context.database, context.doorbell)
    loop.tick()
    assert [context.doorbell.waiting(Bell.REAP, name) for name in ("noop", "local")] == [0, 0]
    context.heartbeat.beat()
    loop.tick()
    loop.tick()
    assert [context.doorbell.waiting(Bell.REAP, name) for name in ("noop", "local")] == [1, 0]


def test_doctor_reports_foreign_jobs(context: Context, backend: FakeBackend) -> None:
    assert checks.orphan_jobs(context.database).ok is None
    start_job(context)
    backend.set_state("fake-1", RUNNING)
    reap(context)
    assert checks.orphan_jobs(context.database).ok is True
    add_foreign_job(backend, job_name(uuid4(), 1))
    reap(context)
    check = checks.orphan_jobs(context.database)
    assert check.ok is None
    assert "at noop" in check.message
    assert check.hint
