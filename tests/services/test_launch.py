"""Launching: each step run of a claim by itself, and never a second job for an attempt."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import AttemptError, BackendRejected, BackendUnavailable, JobDeferred
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.services import launch as launching
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.armed import Injected, Plan
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import backend_problem, end_delays, expire_leases, launch, one_step, row, rows, start


class LimitedBackend(FakeBackend):
    """Defers jobs that ask for much memory, as a limit of a site does."""

    knows_before_submit = False

    def _limit(self, resources: Resources) -> JobDeferred | None:
        return JobDeferred("AssocGrpMemLimit") if resources.memory_gb > 100 else None

    def full(self, resources: Resources, priority: int) -> JobDeferred | None:
        return self._limit(resources) if self.knows_before_submit else None

    def accept(self, request: JobRequest) -> str:
        if (limit := self._limit(request.resource_requirements)) is not None:
            raise limit
        return super().accept(request)


@pytest.fixture
def limited(context: Context) -> LimitedBackend:
    backend = LimitedBackend()
    context.use_backend("noop", backend)
    return backend


def start_with_memory(context: Context, memory_gb: float) -> UUID:
    [run_id] = start(context, one_step(resources={"memory_gb": memory_gb}))
    return run_id


def lose_answer(context: Context, backend: FakeBackend) -> None:
    """Launch what is ready; the backend accepts the jobs, and its answer is lost."""
    backend.accept_then_fail = BackendUnavailable("timed out")
    launch(context)
    backend.accept_then_fail = None
    end_delays(context)


def raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_an_unavailable_backend_releases_the_step_run_for_a_later_try(context: Context, backend: FakeBackend) -> None:
    start(context)
    backend.submit_error = BackendUnavailable("no route to host")
    assert launch(context) == 1
    found = row(context)
    assert (found.status, found.attempt) == ("PENDING", 1)
    assert "no route to host" in found.waiting_for
    assert context.launcher.launch("noop", 10) == 0
    backend.submit_error = None
    launch(context)
    assert (row(context).status, row(context).attempt) == ("SUBMITTED", 1)
    assert len(backend.jobs) == 1


def test_a_job_whose_answer_was_lost_is_adopted(context: Context, backend: FakeBackend) -> None:
    start(context)
    backend.accept_then_fail = BackendUnavailable("Socket timed out on send/recv operation")
    launch(context)
    backend.accept_then_fail = None
    launch(context)
    assert (row(context).status, row(context).job_id) == ("SUBMITTED", "fake-1")
    assert len(backend.jobs) == 1


def test_a_rejected_job_fails_with_the_message_of_the_backend(context: Context, backend: FakeBackend) -> None:
    start(context)
    backend.submit_error = BackendRejected("wants 4000 GB, the largest node has 512 GB")
    launch(context)
    found = row(context)
    assert (found.status, found.reason) == ("FAILED", "rejected")
    assert "4000 GB" in found.reason_text


@pytest.mark.parametrize("before", [True, False], ids=["before it is staged", "by the submit command"])
def test_a_limit_defers_only_the_jobs_beyond_it(context: Context, limited: LimitedBackend, before: bool) -> None:
    limited.knows_before_submit = before
    start_with_memory(context, 200)
    start_with_memory(context, 1)
    assert launch(context) == 2
    large, small = rows(context)
    assert (large.status, large.waiting_for) == ("PENDING", "AssocGrpMemLimit")
    assert small.status == "SUBMITTED"
    assert backend_problem(context) is None


def test_a_deferred_step_run_lets_the_others_pass(context: Context, limited: LimitedBackend) -> None:
    """The delay before its next try grows, and the step runs behind it are claimed meanwhile."""
    start_with_memory(context, 200)
    start_with_memory(context, 1)
    delays = []
    for _ in range(8):
        launch(context, 1)
        delays.append(rows(context, "extract(epoch FROM not_before - now())::float AS delay")[0].delay)
        context.launcher.launch("noop", 1)
    assert rows(context)[1].status == "SUBMITTED"
    assert [round(delay, -1) for delay in delays] == [10, 20, 30, 40, 50, 60, 60, 60]


def test_no_second_attempt_while_a_job_of_the_first_may_exist(
    context: Context, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers about two jobs are lost. Then the search for the first fails, and the second cannot be staged."""
    start(context, count=2)
    lose_answer(context, backend)
    backend.find_error = BackendUnavailable("no route to host")
    with monkeypatch.context() as patch:
        patch.setattr(launching, "build_request", raising(AttemptError(FailureReason.DISK_FULL, "no space")))
        context.launcher.launch("noop", 10)
    assert [(each.status, each.attempt) for each in rows(context)] == [("PENDING", 1)] * 2
    backend.find_error = None
    launch(context)
    assert [(each.status, each.attempt, each.job_id) for each in rows(context)] == [
        ("SUBMITTED", 1, "fake-1"), ("SUBMITTED", 1, "fake-2"),
    ]  # fmt: skip
    assert len(backend.jobs) == 2


def test_a_deferred_search_concerns_its_own_job_only(context: Context, backend: FakeBackend) -> None:
    start(context)
    lose_answer(context, backend)
    start(context)
    backend.find_error = JobDeferred("not settled yet")
    context.launcher.launch("noop", 10)
    first, second = rows(context)
    assert (first.status, first.waiting_for) == ("PENDING", "not settled yet")
    assert second.status == "SUBMITTED"
    assert backend_problem(context) is None


@pytest.mark.parametrize("call", ["submit_many", "find", "full"])
def test_an_exception_of_a_backend_is_recorded_and_loses_nothing(
    context: Context, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    start(context)
    backend.submit_error = BackendUnavailable("away")
    context.launcher.launch("noop", 10)
    backend.submit_error = None
    end_delays(context)
    with monkeypatch.context() as patch:
        patch.setattr(backend, call, raising(ZeroDivisionError("division by zero")))
        context.launcher.launch("noop", 10)
    found = row(context)
    assert (found.status, found.attempt) == ("PENDING", 1)
    assert "division by zero" in found.waiting_for
    assert "division by zero" in str(backend_problem(context))
    launch(context)
    assert row(context).status == "SUBMITTED"


def test_a_step_run_cancelled_before_the_submission_is_not_submitted(
    context: Context, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cancelled, lost = start(context, count=3)
    monkeypatch.setattr(FakeBackend, "submit_seconds", 1.0)

    def full(resources: Resources, priority: int) -> None:
        """Called for each step run while it is prepared, before the leases are renewed."""
        context.requests.cancel([cancelled], actor="anna")
        with context.database.begin() as unit:
            unit.execute("UPDATE step_runs SET token = token + 1 WHERE run_id = :run", {"run": lost})

    monkeypatch.setattr(backend, "full", full)
    launch(context)
    assert len(backend.jobs) == 1
    assert [each.status for each in rows(context)] == ["SUBMITTED", "CANCELLED", "STAGING_DATA"]


@pytest.mark.usefixtures("disarmed")
def test_a_worker_that_dies_before_recording_leaves_one_job(make_context: ContextMaker) -> None:
    """The next worker finds the job by its name."""
    first, second, backend = make_context("noop"), make_context("noop"), FakeBackend()
    first.use_backend("noop", backend)
    second.use_backend("noop", backend)
    start(first)
    failpoints.arm(Plan("* commit.launched before raise"))
    with pytest.raises(Injected):
        launch(first)
    assert row(second).status == "STAGING_DATA"
    sweep = LeaseSweep(second.database, second.doorbell)
    sweep.tick()
    assert row(second).status == "STAGING_DATA"
    expire_leases(second)
    sweep.tick()
    assert "stopped answering" in row(second).waiting_for
    launch(second)
    found = row(second)
    assert (found.status, found.job_id, found.attempt) == ("SUBMITTED", "fake-1", 1)
    assert len(backend.jobs) == 1
