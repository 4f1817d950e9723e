"""Cancel in every state, during submission, with a backend that is silent or does not obey: the truth is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, Status
from ccat_workflow_manager.services import cancel
from tests.chaos.test_late import Executing, row, start
from tests.support import invariants
from tests.support.fixtures_store import ContextMaker


@pytest.fixture
def backend() -> Executing:
    return Executing()


@pytest.fixture
def context(make_context: ContextMaker, backend: Executing, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(cancel, "RETRY_SECONDS", (0.0, 0.0))
    context = make_context("noop", CANCEL_CONFIRM_SECONDS=0.01)
    context.use_backend("noop", backend)
    return context


def press_twice(context: Context, run_id: UUID) -> None:
    for _ in range(2):
        context.requests.cancel([run_id], actor="anna")


def pending(context: Context, backend: Executing, run_id: UUID) -> None:
    press_twice(context, run_id)


def staging(context: Context, backend: Executing, run_id: UUID) -> None:
    """The wish comes while the job is being submitted."""
    backend.meanwhile = lambda: press_twice(context, run_id)
    context.launcher.launch("noop", 1)


def submitted(context: Context, backend: Executing, run_id: UUID) -> None:
    context.launcher.launch("noop", 1)
    press_twice(context, run_id)


def running(context: Context, backend: Executing, run_id: UUID) -> None:
    context.launcher.launch("noop", 1)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    context.poller.poll_all("noop")
    press_twice(context, run_id)


def collecting(context: Context, backend: Executing, run_id: UUID) -> None:
    """The job is over; whoever was collecting its results is no more."""
    context.launcher.launch("noop", 1)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.collector.collect_items = lambda *_: None  # type: ignore[method-assign]
    context.poller.poll_all("noop")
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET lease_until = now() - interval '1 s'")
    press_twice(context, run_id)


STATES: dict[Status, tuple[Callable[[Context, Executing, UUID], None], list[str]]] = {
    Status.PENDING: (pending, []),
    Status.STAGING_DATA: (staging, ["fake-1"]),
    Status.SUBMITTED: (submitted, ["fake-1"]),
    Status.RUNNING: (running, ["fake-1"]),
    Status.COLLECTING_RESULTS: (collecting, ["fake-1"]),
}


def test_these_are_all_states_that_can_be_cancelled() -> None:
    assert STATES.keys() == CANCELLABLE


@pytest.mark.parametrize("status", STATES)
def test_cancel_ends_in_cancelled_and_leaves_no_job(context: Context, backend: Executing, status: Status) -> None:
    bring, stopped = STATES[status]
    run_id = start(context)
    bring(context, backend, run_id)
    context.canceller.cancel_wanted("noop")
    found = row(context)
    assert (found.status, found.attempt) == ("CANCELLED", len(backend.jobs))
    assert backend.cancelled == stopped
    assert all(job.info.finished for job in backend.jobs.values())
    with context.database.read() as unit:
        assert list(invariants.while_working(unit)) == []
    press_twice(context, run_id)
    assert context.canceller.cancel_wanted("noop") == 0
    assert context.launcher.launch("noop", 1) == 0


def answer(context: Context) -> None:
    """The backend may be asked again."""
    with context.database.begin() as unit:
        unit.execute("UPDATE backends SET retry_at = now()")


def test_while_the_backend_is_away_the_operator_sees_which_job_is_not_confirmed_and_why(
    context: Context, backend: Executing
) -> None:
    run_id = start(context)
    running(context, backend, run_id)
    backend.status_error = BackendUnavailable("slurmctld does not answer")
    for _ in range(3):
        answer(context)
        assert context.canceller.cancel_wanted("noop") == 0
    found: Any = row(context)
    assert found.status == "RUNNING"
    assert "slurmctld does not answer" in found.waiting_for
    assert "not confirmed" in found.waiting_for
    backend.status_error = None
    answer(context)
    context.canceller.cancel_wanted("noop")
    assert row(context).status == "CANCELLED"


def test_a_job_that_does_not_obey_is_asked_again_and_is_shown_until_it_is_gone(
    context: Context, backend: Executing
) -> None:
    run_id = start(context)
    running(context, backend, run_id)
    backend.stubborn = True
    for number in (1, 2, 3):
        assert context.canceller.cancel_wanted("noop") == 0
        assert backend.cancelled == ["fake-1"] * number
        assert (row(context).status, row(context).waiting_for) == (
            "RUNNING", "asked noop to stop the job; not confirmed yet",
        )  # fmt: skip
    backend.stubborn = False
    context.canceller.cancel_wanted("noop")
    assert row(context).status == "CANCELLED"


def test_a_job_that_came_to_its_end_before_it_could_be_stopped_has_ended(context: Context, backend: Executing) -> None:
    run_id = start(context)
    running(context, backend, run_id)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.FAILED, 3))
    context.poller.poll_all("noop")
    context.canceller.cancel_wanted("noop")
    # A cancelled job never comes back as FAILED, and is never retried.
    assert (row(context).status, row(context).attempt, len(backend.jobs)) == ("CANCELLED", 1, 1)


def test_a_job_that_nobody_knows_any_more_is_cancelled_when_the_grace_is_over(
    context: Context, backend: Executing
) -> None:
    run_id = start(context)
    running(context, backend, run_id)
    backend.drop("fake-1")
    context.poller.poll_all("noop")
    since = row(context).unknown_since
    assert since is not None
    context.canceller.cancel_wanted("noop")
    assert (row(context).status, row(context).unknown_since) == ("RUNNING", since), "asking does not begin it anew"
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET unknown_since = now() - interval '1 hour'")
    context.canceller.cancel_wanted("noop")
    context.poller.poll_all("noop")
    assert (row(context).status, row(context).attempt) == ("CANCELLED", 1)


def test_a_job_that_is_found_and_not_known_is_cancelled_when_the_grace_is_over(
    context: Context, backend: Executing
) -> None:
    """Its worker died while it handed the job over: nobody ever followed it, and nobody else would end the wait."""
    run_id = start(context)
    backend.accept_then_fail = BackendUnavailable("the answer was lost")
    context.launcher.launch("noop", 1)
    backend.set_state("fake-1", UNKNOWN)
    backend.stubborn = True
    context.requests.cancel([run_id], actor="anna")
    for _ in range(2):
        answer(context)
        assert context.canceller.cancel_wanted("noop") == 0
    assert row(context).status == "PENDING"
    assert row(context).unknown_since is not None
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET unknown_since = now() - interval '1 hour'")
    assert context.canceller.cancel_wanted("noop") == 1
    assert (row(context).status, row(context).attempt) == ("CANCELLED", 1)
