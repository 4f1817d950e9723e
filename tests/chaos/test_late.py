"""Workers that come back after their lease is over: every job has one step run, and none is left running."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.chaos.executing import Executing, start_one, sweep
from tests.support.armed import CallOnce, Injected, Plan
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import cancel_wanted, end_delays, poll, row, start


class Deadly(FakeBackend):
    """The process that asks for jobs dies, once it is armed."""

    armed = False

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        if self.armed:
            raise SystemExit
        return super().get_statuses(job_ids)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


Workers = tuple[Context, Context, Executing]


@pytest.fixture
def workers(make_context: ContextMaker) -> Workers:
    """Two workers of one backend."""
    first, second, backend = make_context("noop"), make_context("noop"), Executing()
    for context in (first, second):
        context.use_backend("noop", backend)
    return first, second, backend


def test_a_job_submitted_after_the_cancel_was_carried_out_is_stopped(workers: Workers) -> None:
    slow, other, backend = workers
    run_id = start_one(slow)

    def cancel_elsewhere() -> None:
        sweep(other)
        other.requests.cancel([run_id], actor="anna")
        assert cancel_wanted(other) == 1

    backend.meanwhile = cancel_elsewhere
    slow.launcher.launch("noop", 1)
    assert row(slow).status == "CANCELLED"
    assert backend.cancelled == ["fake-1"]


def test_a_job_submitted_after_another_worker_has_submitted_one_is_stopped(workers: Workers) -> None:
    slow, other, backend = workers
    start_one(slow)

    def launch_elsewhere() -> None:
        backend.meanwhile = lambda: None
        sweep(other)
        other.launcher.launch("noop", 1)

    backend.meanwhile = launch_elsewhere
    slow.launcher.launch("noop", 1)
    assert (row(slow).status, row(slow).job_id, row(slow).attempt) == ("SUBMITTED", "fake-1", 1)
    assert backend.cancelled == ["fake-2"]


def test_a_job_submitted_too_late_is_left_to_the_worker_that_will_find_it(workers: Workers) -> None:
    slow, other, backend = workers
    start_one(slow)
    backend.meanwhile = lambda: sweep(other)
    slow.launcher.launch("noop", 1)
    assert (row(slow).status, backend.cancelled) == ("PENDING", [])
    backend.meanwhile = lambda: None
    other.launcher.launch("noop", 1)
    assert (row(slow).status, row(slow).job_id, len(backend.jobs)) == ("SUBMITTED", "fake-1", 1)


def test_a_cancel_while_the_job_is_being_looked_for_stops_it(workers: Workers) -> None:
    context, other, backend = workers
    run_id = start_one(context)
    backend.accept_then_fail = BackendUnavailable("timed out")
    context.launcher.launch("noop", 1)
    backend.accept_then_fail = None
    end_delays(context)
    # The cancel comes between the claim and the first look, and every look renews the lease.
    object.__setattr__(context.worker_context, "lease_seconds", 1e-6)
    cancel = CallOnce("commit.claim", failpoints.AFTER, lambda: other.requests.cancel([run_id], actor="anna"))
    failpoints.arm(cancel)
    context.launcher.launch("noop", 1)
    assert row(context).status == "PENDING"
    cancel_wanted(other)
    assert (row(context).status, backend.cancelled) == ("CANCELLED", ["fake-1"])


def test_a_worker_that_dies_while_it_polls_is_replaced_when_its_lease_is_over(make_context: ContextMaker) -> None:
    first, second = make_context("noop", LEASE_SECONDS=1), make_context("noop", LEASE_SECONDS=1)
    backend = Deadly()
    for context in (first, second):
        context.use_backend("noop", backend)
    start(first)
    first.launcher.launch("noop", 1)
    with first.database.begin() as unit:
        unit.execute("UPDATE backends SET poll_lease_until = NULL")
    backend.armed = True
    # Of all that the process does on its way out nothing reaches the database.
    failpoints.arm(Plan("* commit.followed before raise"))
    with pytest.raises((SystemExit, Injected)):
        poll(first)
    with second.database.read() as unit:
        left = unit.execute("SELECT extract(epoch FROM poll_lease_until - now()) FROM backends").scalar()
    assert left is None or left <= 2
