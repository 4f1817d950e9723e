"""What becomes of jobs that are at a backend already when the breaker of their step opens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.work_items import live_items_by_job
from ccat_workflow_manager.errors import NotFound, ServiceUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.armed import Injected, Plan
from tests.support.fixtures_store import ContextMaker
from tests.support.invariants import while_working

SPEC: dict[str, Any] = {
    "name": "fan",
    "steps": [{"name": "out", "image": "a.sif", "foreach": list(range(10)), "command": ["a"]}],
}
FAILED = HPCJobInfo(JobStatus.FAILED, exit_code=3)


@pytest.fixture
def context(make_context: ContextMaker) -> Context:
    return make_context("noop", BREAKER_FAILURES=3, CANCEL_CONFIRM_SECONDS=0.001)


@pytest.fixture
def fake(context: Context) -> FakeBackend:
    backend = FakeBackend()
    context._backends["noop"] = backend
    return backend


def start(context: Context, fake: FakeBackend, failing: int = 3) -> None:
    """Ten jobs are at the backend, so many of them fail, and the fifth runs."""
    context.submitter.submit(RunRequest(spec=SPEC), actor="test")
    assert context.launcher.launch("noop", 10) == 10
    fake.set_state("fake-5", HPCJobInfo(JobStatus.RUNNING))
    context.poller.poll_all("noop")
    for number in range(1, failing + 1):
        fake.set_state(f"fake-{number}", FAILED)
    context.poller.poll_all("noop")


def step_runs(context: Context, columns: str = "status") -> list[Any]:
    with context.database.read() as unit:
        return list(unit.execute(f"SELECT {columns} FROM step_runs ORDER BY id").all())


def statuses(context: Context) -> dict[str, int]:
    found = [row[0] for row in step_runs(context)]
    return {status: found.count(status) for status in sorted(set(found))}


def test_waiting_jobs_are_requeued_and_running_jobs_go_on(context: Context, fake: FakeBackend) -> None:
    start(context, fake)
    context.canceller.cancel_wanted("noop")
    assert statuses(context) == {"FAILED": 3, "PENDING": 6, "RUNNING": 1}
    assert sorted(fake.cancelled) == ["fake-10", "fake-4", "fake-6", "fake-7", "fake-8", "fake-9"]
    assert context.launcher.launch("noop", 10) == 0
    assert {row[0] for row in step_runs(context, "requeued_by_breaker OR cancel_requested_at IS NOT NULL")} == {False}
    # What is running succeeds, and everything goes on, in another attempt, of which it has as many as before.
    fake.set_state("fake-5", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.poller.poll_all("noop")
    assert context.launcher.launch("noop", 10) == 6
    assert {tuple(row) for row in step_runs(context, "attempt, max_attempts") if row[0] == 2} == {(2, 3)}
    with context.database.read() as unit:
        texts = unit.execute("SELECT DISTINCT reason, reason_text FROM attempts WHERE reason = 'cancelled'").all()
    assert list(map(tuple, texts)) == [
        ("cancelled", "its job was stopped before it started, because the circuit breaker of its step opened")
    ]


def test_a_cancel_of_a_person_wins(context: Context, fake: FakeBackend) -> None:
    start(context, fake)
    run_id = step_runs(context, "run_id")[0][0]
    context.requests.cancel([run_id], actor="operator")
    context.canceller.cancel_wanted("noop")
    assert statuses(context) == {"CANCELLED": 7, "FAILED": 3}


def test_a_job_that_succeeds_before_it_is_requeued_has_succeeded(context: Context, fake: FakeBackend) -> None:
    start(context, fake)
    fake.set_state("fake-7", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.poller.poll_all("noop")
    assert statuses(context)["COMPLETED"] == 1
    context.canceller.cancel_wanted("noop")
    assert statuses(context) == {"COMPLETED": 1, "FAILED": 3, "PENDING": 5, "RUNNING": 1}
    with context.database.read() as unit:
        assert unit.execute("SELECT count(*) FROM breakers").scalar() == 0


@pytest.mark.parametrize("info", [HPCJobInfo(JobStatus.CANCELLED), HPCJobInfo(JobStatus.FAILED, exit_code=143)])
def test_a_requeue_that_the_poller_has_not_read_wins(
    make_context: ContextMaker,
    context: Context,
    fake: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    info: HPCJobInfo,
) -> None:
    """Another worker opens the breaker and requeues the job between the look at the row and the backend's answer."""
    other = make_context("noop", BREAKER_FAILURES=3)
    other._backends["noop"] = fake
    start(context, fake, failing=2)
    answer, todo = fake.get_statuses, [1]

    def interrupted(job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        if todo:
            todo.pop()
            fake.set_state("fake-3", FAILED)
            with other.database.read() as unit:
                items = live_items_by_job(unit, "noop", ["fake-3"])
            other.status_updater.update(other.backend_handle("noop"), items)
            assert step_runs(context, "requeued_by_breaker")[6][0]
            fake.set_state("fake-7", info)
        return answer(job_ids)

    monkeypatch.setattr(fake, "get_statuses", interrupted)
    context.poller.poll_all("noop")
    assert tuple(step_runs(context, "status, requeued_by_breaker, attempt, max_attempts")[6]) == (
        "PENDING",
        False,
        1,
        3,
    )
    assert statuses(context) == {"FAILED": 3, "PENDING": 1, "RUNNING": 1, "SUBMITTED": 5}
    with context.database.read() as unit:
        assert list(while_working(unit)) == []


def test_the_sweep_requeues_jobs_that_were_launched_meanwhile(context: Context, fake: FakeBackend) -> None:
    start(context, fake)
    context.canceller.cancel_wanted("noop")
    with context.database.begin() as unit:
        # As if its launch had been recorded a moment after the breaker has opened.
        unit.execute(
            "UPDATE step_runs SET status = 'SUBMITTED', job_id = 'fake-8', claims = 1"
            " WHERE id = (SELECT step_run_id FROM attempts WHERE job_id = 'fake-8')"
        )
        unit.execute("UPDATE runs SET n_pending = n_pending - 1, n_submitted = n_submitted + 1")
    context.breakers.sweep()
    context.canceller.cancel_wanted("noop")
    assert statuses(context) == {"FAILED": 3, "PENDING": 6, "RUNNING": 1}


def test_the_probe_is_not_requeued(context: Context, fake: FakeBackend) -> None:
    start(context, fake)
    context.canceller.cancel_wanted("noop")
    with context.database.begin() as unit:
        unit.execute("UPDATE breakers SET probe_at = now()")
    assert context.launcher.launch("noop", 10) == 1
    context.breakers.sweep()
    context.canceller.cancel_wanted("noop")
    assert statuses(context) == {"FAILED": 3, "PENDING": 5, "RUNNING": 1, "SUBMITTED": 1}


def test_failures_of_the_site_hold_back_nobody(context: Context, fake: FakeBackend) -> None:
    context.submitter.submit(RunRequest(spec=SPEC), actor="test")
    context.launcher.launch("noop", 10)
    for number in range(1, 6):
        fake.set_state(f"fake-{number}", HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE))
    context.poller.poll_all("noop")
    context.breakers.sweep()
    context.canceller.cancel_wanted("noop")
    assert statuses(context) == {"PENDING": 5, "SUBMITTED": 5}
    assert fake.cancelled == []


@pytest.mark.parametrize("point", ["commit.requeue-waiting", "commit.breaker-release", "commit.breakers-swept"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("action", ["raise", "timeout"])
def test_whoever_breaks_off_leaves_nothing_half_done(
    make_context: ContextMaker, context: Context, fake: FakeBackend, point: str, moment: str, action: str
) -> None:
    off = make_context("noop", BREAKER_FAILURES=0)
    failpoints.arm(Plan(f"* {point} {moment} {action}"))
    try:
        for work in (
            lambda: start(context, fake),
            lambda: context.poller.poll_all("noop"),
            context.breakers.sweep,
            lambda: context.breakers.release(step_runs(context, "breaker_key")[0][0], actor="operator"),
            off.breakers.sweep,
        ):
            with suppress(Injected, ServiceUnavailable, NotFound):
                work()
    finally:
        failpoints.arm(None)
    off.breakers.sweep()
    for _ in range(2):
        context.poller.poll_all("noop")
        context.canceller.cancel_wanted("noop")
    context.launcher.launch("noop", 10)
    found = statuses(context)
    assert found.keys() <= {"FAILED", "RUNNING", "SUBMITTED"}
    assert (found["FAILED"], found["RUNNING"]) == (3, 1)
    with context.database.read() as unit:
        assert unit.execute("SELECT count(*) FROM breakers WHERE opened_at IS NOT NULL").scalar() in (0, 1)
        assert list(while_working(unit)) == []
