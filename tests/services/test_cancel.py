"""Cancelling: CANCELLED is recorded when the job has ended, and no job keeps another one from being stopped."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendError, BackendUnavailable, JobDeferred
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.services import cancel
from ccat_workflow_manager.services.cancel import Canceller
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.fixtures_store import ContextMaker
from tests.support.invariants import while_working
from tests.support.step_runs import backend_problem, cancel_wanted, poll, retry_backend, row, rows, start

RUNNING = HPCJobInfo(JobStatus.RUNNING)
NOT_CONFIRMED = "not confirmed"


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def context(make_context: ContextMaker, clock: Clock) -> Context:
    context = make_context("noop", CANCEL_CONFIRM_SECONDS=0.01)
    context.canceller = Canceller(context.worker_context, clock=clock)
    return context


def start_jobs(context: Context, count: int = 1) -> list[UUID]:
    run_ids = start(context, count=count)
    retry_backend(context)
    context.launcher.launch("noop", count)
    return run_ids


def start_with_lost_answer(context: Context, backend: FakeBackend) -> list[UUID]:
    backend.accept_then_fail = BackendUnavailable("the answer was lost")
    run_ids = start_jobs(context)
    backend.accept_then_fail = None
    return run_ids


def test_cancelled_is_recorded_when_the_job_has_ended(context: Context, backend: FakeBackend, clock: Clock) -> None:
    run_ids = start_jobs(context)
    backend.stubborn = True
    context.requests.cancel(run_ids, actor="anna")
    cancel_wanted(context)
    found = row(context)
    assert found.status == "SUBMITTED"
    assert NOT_CONFIRMED in found.waiting_for
    backend.stubborn = False
    clock.now = 10.0
    cancel_wanted(context)
    assert row(context).status == "CANCELLED"
    assert set(backend.cancelled) == {"fake-1"}


def test_a_job_that_fails_while_it_is_cancelled_is_cancelled(context: Context, backend: FakeBackend) -> None:
    run_ids = start_jobs(context)
    context.requests.cancel(run_ids, actor="anna")
    backend.set_state("fake-1", HPCJobInfo(JobStatus.FAILED, exit_code=143, signal=15))
    poll(context)
    found = row(context)
    assert (found.status, found.attempt) == ("CANCELLED", 1)


def test_a_job_that_completed_before_the_cancel_is_completed(context: Context, backend: FakeBackend) -> None:
    run_ids = start_jobs(context)
    context.requests.cancel(run_ids, actor="anna")
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    cancel_wanted(context)
    poll(context)
    assert row(context).status == "COMPLETED"


def test_a_job_that_was_never_recorded_is_found_and_stopped(context: Context, backend: FakeBackend) -> None:
    run_ids = start_with_lost_answer(context, backend)
    context.requests.cancel(run_ids, actor="anna")
    assert row(context).status == "PENDING"
    cancel_wanted(context)
    assert row(context).status == "CANCELLED"
    assert backend.cancelled == ["fake-1"]


# --- cancels that the poller has not read -----------------------------------------------------------------------------


def during_status_call(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Call `action` once, after the poller has read its step runs and before the backend answers."""
    get_statuses, actions = backend.get_statuses, [action]

    def interrupted(job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        if actions:
            actions.pop()()
        return get_statuses(job_ids)

    monkeypatch.setattr(backend, "get_statuses", interrupted)


@pytest.mark.parametrize(
    "info",
    [
        HPCJobInfo(JobStatus.CANCELLED, message="CANCELLED by 1000"),
        HPCJobInfo(JobStatus.FAILED, signal=15),
        HPCJobInfo(JobStatus.FAILED, exit_code=3),
        HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE),
    ],
    ids=["stopped", "killed", "failed by itself", "would be retried"],
)
@pytest.mark.parametrize("running", [True, False])
def test_a_job_stopped_during_a_poll_is_cancelled(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, info: HPCJobInfo, running: bool
) -> None:
    """Another worker stops the job after the poller has read its step run."""
    first, second, backend = make_context("noop"), make_context("noop"), FakeBackend()
    first.use_backend("noop", backend)
    second.use_backend("noop", backend)
    run_ids = start_jobs(first)
    if running:
        backend.set_state("fake-1", RUNNING)
        poll(first)

    def stop() -> None:
        second.requests.cancel(run_ids, actor="anna")
        backend.set_state("fake-1", info)

    during_status_call(backend, monkeypatch, stop)
    poll(first)
    found = row(first)
    assert (found.status, found.reason, found.attempt) == ("CANCELLED", "cancelled", 1)
    assert found.cancel_requested_by == "anna"
    attempt = row(first, table="attempts")
    assert (attempt.reason, attempt.exit_code, attempt.signal) == ("cancelled", info.exit_code, info.signal)
    with first.database.read() as unit:
        assert list(while_working(unit)) == []


def test_a_job_that_completes_during_a_poll_is_completed(
    context: Context, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = start_jobs(context)

    def complete() -> None:
        context.requests.cancel(run_ids, actor="anna")
        backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))

    during_status_call(backend, monkeypatch, complete)
    poll(context)
    assert row(context).status == "COMPLETED"


# --- jobs that cannot be found ----------------------------------------------------------------------------------------


def test_an_unsettled_submission_keeps_no_other_job_from_being_stopped(context: Context, backend: FakeBackend) -> None:
    run_ids = [*start_with_lost_answer(context, backend), *start_jobs(context, 2)]
    context.requests.cancel(run_ids, actor="anna")
    backend.find_error = JobDeferred("not settled yet")
    assert cancel_wanted(context) == 2
    assert backend.cancelled == ["fake-2", "fake-3"]
    assert [(each.status, each.waiting_for) for each in rows(context)] == [
        ("PENDING", "not settled yet"), ("CANCELLED", None), ("CANCELLED", None),
    ]  # fmt: skip


@pytest.mark.parametrize("error", [BackendUnavailable("squeue: timed out"), RuntimeError("a bug")])
def test_a_failed_search_keeps_no_known_job_from_being_stopped(
    context: Context, backend: FakeBackend, error: Exception
) -> None:
    run_ids = [
        *start_with_lost_answer(context, backend),
        *start_with_lost_answer(context, backend),
        *start_jobs(context),
    ]
    context.requests.cancel(run_ids, actor="anna")
    backend.find_error = error
    assert cancel_wanted(context) == 1
    assert backend.cancelled == ["fake-3"]
    assert [each.status for each in rows(context)] == ["PENDING", "PENDING", "CANCELLED"]
    message = str(error.args[0])
    assert all(NOT_CONFIRMED in each.waiting_for and message in each.waiting_for for each in rows(context)[:2])
    assert message in str(backend_problem(context))
    # A backend that does not answer is asked only once.
    assert backend.find_calls == (1 if isinstance(error, BackendError) else 2)


def test_an_exception_of_a_backend_is_recorded(context: Context, backend: FakeBackend) -> None:
    run_ids = start_jobs(context)
    context.requests.cancel(run_ids, actor="anna")
    backend.cancel_error = KeyError("a bug of the backend")
    assert cancel_wanted(context) == 0
    assert "a bug of the backend" in rows(context)[0].waiting_for
    assert "a bug of the backend" in str(backend_problem(context))


# --- jobs that do not stop --------------------------------------------------------------------------------------------


def test_jobs_that_do_not_stop_keep_no_later_job_from_being_asked(
    context: Context, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel, "PAGE", 2)
    backend.stubborn = True
    context.requests.cancel(start_jobs(context, 5), actor="anna")
    cancel_wanted(context)
    assert sorted(backend.cancelled) == [f"fake-{number}" for number in range(1, 6)]


def test_a_job_that_does_not_stop_is_asked_less_and_less_often(
    context: Context, backend: FakeBackend, clock: Clock
) -> None:
    backend.stubborn = True
    context.requests.cancel(start_jobs(context), actor="anna")
    seconds = []
    for second in range(100):
        clock.now = float(second)
        before = len(backend.cancelled)
        cancel_wanted(context)
        if len(backend.cancelled) > before:
            seconds.append(second)
    assert seconds == [0, 1, 3, 7, 15, 31, 61, 91]


def test_a_new_request_does_not_wait_for_the_retries_of_others(context: Context, backend: FakeBackend) -> None:
    backend.stubborn = True
    context.requests.cancel(start_jobs(context), actor="anna")
    cancel_wanted(context)
    backend.stubborn = False
    context.requests.cancel(start_jobs(context), actor="anna")
    assert cancel_wanted(context) == 1
    assert backend.cancelled == ["fake-1", "fake-2"]


# --- problems of the backend ------------------------------------------------------------------------------------------


def test_the_canceller_clears_the_problem_that_it_recorded(
    context: Context, backend: FakeBackend, clock: Clock
) -> None:
    context.requests.cancel(start_jobs(context), actor="anna")
    backend.cancel_error = BackendUnavailable("slurmctld does not answer")
    cancel_wanted(context)
    assert backend_problem(context) == "slurmctld does not answer"
    backend.cancel_error = None
    clock.now = 10.0
    assert cancel_wanted(context) == 1
    assert backend_problem(context) is None


def test_the_canceller_leaves_other_problems(context: Context, backend: FakeBackend) -> None:
    run_ids = start_jobs(context)
    backend.submit_error = BackendUnavailable("no route to host")
    start_jobs(context)
    context.requests.cancel(run_ids, actor="anna")
    assert cancel_wanted(context) == 1
    assert backend_problem(context) == "no route to host"


# --- ends that are not confirmed --------------------------------------------------------------------------------------


def make_unknown_for_long(context: Context) -> None:
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET unknown_since = now() - interval '150 seconds'")


def test_a_cancel_that_ends_with_the_grace_is_not_confirmed(
    context: Context, backend: FakeBackend, clock: Clock
) -> None:
    run_ids = start_with_lost_answer(context, backend)
    backend.stubborn = True
    backend.set_state("fake-1", UNKNOWN)
    context.requests.cancel(run_ids, actor="anna")
    for clock.now in (0.0, 10.0):
        assert cancel_wanted(context) == 0
    make_unknown_for_long(context)
    clock.now = 20.0
    assert cancel_wanted(context) == 1
    found = row(context)
    assert found.status == "CANCELLED"
    assert re.search(r"fake-1 for 15\d s", found.reason_text)
    assert row(context, table="attempts").warnings == [found.reason_text]
    assert backend.cleaned == [], "the job may reappear"


def test_the_grace_of_a_cancel_begins_with_the_first_answer(
    context: Context, backend: FakeBackend, clock: Clock
) -> None:
    run_ids = start_with_lost_answer(context, backend)
    backend.stubborn = True
    backend.set_state("fake-1", UNKNOWN)
    context.requests.cancel(run_ids, actor="anna")
    make_unknown_for_long(context)
    assert cancel_wanted(context) == 0
    clock.now = 10.0
    assert cancel_wanted(context) == 0


def test_a_confirmed_job_is_cleaned_up(context: Context, backend: FakeBackend) -> None:
    context.requests.cancel(start_jobs(context), actor="anna")
    assert cancel_wanted(context) == 1
    assert backend.cleaned == ["fake-1"]


def test_a_poll_keeps_the_reason_of_a_cancel(context: Context, backend: FakeBackend) -> None:
    backend.stubborn = True
    context.requests.cancel(start_jobs(context), actor="anna")
    cancel_wanted(context)
    for info in (HPCJobInfo(JobStatus.PENDING, message="Priority"), RUNNING, UNKNOWN, RUNNING):
        backend.set_state("fake-1", info)
        poll(context)
        assert NOT_CONFIRMED in row(context).waiting_for
