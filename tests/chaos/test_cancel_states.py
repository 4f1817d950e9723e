"""A cancel in every state: the end is CANCELLED, and no job is left. tests/services/test_cancel.py has the rest."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, Status
from ccat_workflow_manager.services import cancel
from tests.chaos.executing import Executing, start_one
from tests.support import invariants
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import cancel_wanted, expire_leases, poll, row


@pytest.fixture
def backend() -> Executing:
    return Executing()


@pytest.fixture
def context(make_context: ContextMaker, backend: Executing, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(cancel, "RETRY_SECONDS", (0.0, 0.0))
    context = make_context("noop", CANCEL_CONFIRM_SECONDS=0.01)
    context.use_backend("noop", backend)
    return context


def cancel_twice(context: Context, run_id: UUID) -> None:
    for _ in range(2):
        context.requests.cancel([run_id], actor="anna")


def pending(context: Context, backend: Executing, run_id: UUID) -> None:
    cancel_twice(context, run_id)


def staging(context: Context, backend: Executing, run_id: UUID) -> None:
    """The cancel comes while the job is being submitted."""
    backend.meanwhile = lambda: cancel_twice(context, run_id)
    context.launcher.launch("noop", 1)


def submitted(context: Context, backend: Executing, run_id: UUID) -> None:
    context.launcher.launch("noop", 1)
    cancel_twice(context, run_id)


def running(context: Context, backend: Executing, run_id: UUID) -> None:
    context.launcher.launch("noop", 1)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    poll(context)
    cancel_twice(context, run_id)


def collecting(context: Context, backend: Executing, run_id: UUID) -> None:
    """The job is over, and the worker that was collecting its results is dead."""
    context.launcher.launch("noop", 1)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.collector.collect_items = lambda *_: None  # type: ignore[method-assign]
    poll(context)
    expire_leases(context)
    cancel_twice(context, run_id)


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
    run_id = start_one(context)
    bring(context, backend, run_id)
    cancel_wanted(context)
    found = row(context)
    assert (found.status, found.attempt) == ("CANCELLED", len(backend.jobs))
    assert backend.cancelled == stopped
    assert all(job.info.finished for job in backend.jobs.values())
    with context.database.read() as unit:
        assert list(invariants.while_working(unit)) == []
    cancel_twice(context, run_id)
    assert cancel_wanted(context) == 0
    assert context.launcher.launch("noop", 1) == 0
