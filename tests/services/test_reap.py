"""Jobs that nobody waits for any more are stopped; those that may be somebody else's are not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
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
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.armed import Injected, Plan
from tests.support.fixtures_store import ContextMaker

RUNNING = HPCJobInfo(JobStatus.RUNNING)
SPEC: dict[str, Any] = {
    "name": "one", "steps": [{"name": "only", "command": ["a"], "retry": {"max_attempts": 2, "backoff_seconds": 0}}]
}  # fmt: skip


@pytest.fixture
def fake(context: Context) -> FakeBackend:
    backend = FakeBackend()
    context._backends["noop"] = backend
    return backend


def start(context: Context) -> None:
    context.submitter.submit(RunRequest(spec=SPEC), actor="test")
    assert context.launcher.launch("noop", 10) == 1


def by_hand(fake: FakeBackend, name: str) -> str:
    """A job that nobody here has asked for, or not any more."""
    job_id = fake.accept(JobRequest(job_name=name))
    fake.set_state(job_id, RUNNING)
    return job_id


def reap(context: Context, *, later_seconds: float = 3600) -> int:
    """Look as if so much time had passed since everything that has happened."""
    with context.database.begin() as unit:
        unit.execute("UPDATE events SET at = at - :s * interval '1 second'", {"s": later_seconds})
        unit.execute("UPDATE backends SET reaped_at = NULL")
    return context.reaper.reap("noop")


def rows(context: Context, sql: str) -> list[Any]:
    with context.database.read() as unit:
        return list(unit.execute(sql).all())


def state(context: Context) -> BackendState:
    with context.database.read() as unit:
        return backend_states(unit)["noop"]


def test_a_name_says_which_attempt_it_is_of() -> None:
    step_run_id = uuid4()
    assert parse_job_name(job_name(step_run_id, 12)) == (step_run_id, 12)
    for other in ("ccat-array-0123456789abcdef01234567", f"ccat-{step_run_id}-1", f"x{job_name(step_run_id, 1)}",
                  f"{job_name(step_run_id, 1)}0" + "0" * 9, f"ccat-{step_run_id.hex}-0", ""):  # fmt: skip
        assert parse_job_name(other) is None


def test_a_job_whose_attempt_is_over_is_stopped_and_said(context: Context, fake: FakeBackend) -> None:
    start(context)
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.poller.poll_all("noop")
    # It comes back, or was never gone.
    fake.set_state("fake-1", RUNNING)
    assert reap(context, later_seconds=60) == 0
    assert fake.cancelled == []
    assert reap(context, later_seconds=120) == 1
    assert fake.cancelled == ["fake-1"]
    assert (state(context).stray_jobs, state(context).strays_stopped) == (1, 1)
    assert rows(context, "SELECT warnings FROM attempts")[0][0] == [
        "the job fake-1 was still there after this attempt was over, and was stopped"
    ]
    assert reap(context) == 0
    assert (state(context).stray_jobs, state(context).strays_stopped) == (0, 1)
    assert rows(context, "SELECT status FROM step_runs") == [("COMPLETED",)]


def test_what_does_not_stop_is_asked_again_and_told_once(context: Context, fake: FakeBackend) -> None:
    fake.stubborn = True
    start(context)
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.poller.poll_all("noop")
    fake.set_state("fake-1", RUNNING)
    assert [reap(context), reap(context)] == [1, 1]
    assert fake.cancelled == ["fake-1", "fake-1"]
    assert (state(context).stray_jobs, state(context).strays_stopped) == (1, 1)


def test_the_job_of_an_attempt_that_was_followed_by_another(context: Context, fake: FakeBackend) -> None:
    """A job is lost, the step run is tried again, and the first job turns up after all."""
    start(context)
    fake.set_state("fake-1", HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE))
    context.poller.poll_all("noop")
    fake.set_state("fake-1", RUNNING)
    # Waiting for its next attempt ...
    assert reap(context, later_seconds=60) == 0
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET not_before = NULL")
    assert context.launcher.launch("noop", 10) == 1
    # ... and in it.
    assert reap(context) == 1
    assert fake.cancelled == ["fake-1"]
    assert fake.jobs["fake-2"].info.status is JobStatus.PENDING


def test_what_is_live_or_sought_is_left_alone(context: Context, fake: FakeBackend) -> None:
    start(context)
    fake.set_state("fake-1", RUNNING)
    assert reap(context) == 0
    # Submitted, and the worker died before it could say so: the next one will look for it.
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET status = 'PENDING', job_id = NULL, lease_owner = NULL, lease_until = NULL")
    assert reap(context) == 0
    assert fake.cancelled == []


def test_jobs_of_strangers_are_counted_and_left_alone(context: Context, fake: FakeBackend) -> None:
    start(context)
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.poller.poll_all("noop")
    ours = parse_job_name(fake.jobs["fake-1"].request.job_name)
    assert ours is not None
    # Another deployment's, an attempt that was never made here, an array whose members nobody knows.
    by_hand(fake, job_name(uuid4(), 1))
    by_hand(fake, job_name(ours[0], 2))
    by_hand(fake, "ccat-array-0123456789abcdef01234567")
    assert reap(context) == 0
    assert fake.cancelled == []
    assert state(context).unknown_jobs == 3


def test_a_job_at_another_backend_is_not_meant(context: Context, fake: FakeBackend) -> None:
    start(context)
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.poller.poll_all("noop")
    elsewhere = FakeBackend()
    context._backends["concurrent"] = elsewhere
    by_hand(elsewhere, fake.jobs["fake-1"].request.job_name)
    with context.database.begin() as unit:
        unit.execute("UPDATE events SET at = at - interval '1 hour'")
    assert context.reaper.reap("concurrent") == 0
    assert elsewhere.cancelled == []


def test_one_looks_at_a_time_and_silence_is_no_answer(make_context: ContextMaker) -> None:
    first, second = make_context("noop"), make_context("noop")
    fake = FakeBackend()
    for context in (first, second):
        context._backends["noop"] = fake
    start(first)
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    first.poller.poll_all("noop")
    fake.set_state("fake-1", RUNNING)
    fake.status_error = BackendUnavailable("Socket timed out", backend="noop")
    assert reap(first) == 0
    fake.status_error = None
    assert second.reaper.reap("noop") == 0, "it has only just been looked at"
    assert reap(second) == 1
    assert first.reaper.reap("noop") == 0
    assert fake.cancelled == ["fake-1"]
    # A backend that cannot be listed now can be used all the same.
    assert state(first).problem is None


@pytest.mark.parametrize("point", ["commit.take-reap", "backend.list", "backend.reap", "commit.reaped"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("action", ["raise", "timeout"])
def test_a_reaper_that_breaks_off_goes_on_the_next_time(
    context: Context, fake: FakeBackend, point: str, moment: str, action: str
) -> None:
    start(context)
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.poller.poll_all("noop")
    fake.set_state("fake-1", RUNNING)
    failpoints.arm(Plan(f"* {point} {moment} {action}"))
    try:
        with suppress(Injected, ServiceUnavailable):
            reap(context)
    finally:
        failpoints.arm(None)
    reap(context)
    assert set(fake.cancelled) == {"fake-1"}
    assert fake.jobs["fake-1"].info.status is JobStatus.CANCELLED
    assert reap(context) == 0
    assert state(context).stray_jobs == 0


def test_every_backend_that_is_served_is_looked_at(context: Context) -> None:
    caller = OrphansLoop(context.database, context.doorbell)
    caller.tick()
    assert [context.doorbell.waiting(Bell.REAP, name) for name in ("noop", "local")] == [0, 0]
    context.alive()
    caller.tick()
    caller.tick()
    assert [context.doorbell.waiting(Bell.REAP, name) for name in ("noop", "local")] == [1, 0]


def test_doctor_tells_what_was_found(context: Context, fake: FakeBackend) -> None:
    assert checks.orphan_jobs(context.database).ok is None
    start(context)
    fake.set_state("fake-1", RUNNING)
    reap(context)
    assert checks.orphan_jobs(context.database).ok is True
    by_hand(fake, job_name(uuid4(), 1))
    reap(context)
    told = checks.orphan_jobs(context.database)
    assert told.ok is None
    assert told.message.startswith("1 jobs at noop ")
    assert told.hint
