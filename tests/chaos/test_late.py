"""Workers that come back after their lease is over, and jobs of which nobody knows: nothing is left running."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar
from uuid import UUID

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendError, BackendUnavailable
from ccat_workflow_manager.hpc.base import Capabilities, JobRequest
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.armed import CallOnce, Injected, Plan
from tests.support.fixtures_store import ContextMaker

SPEC: dict[str, Any] = {"name": "late", "steps": [{"name": "only", "command": ["a"], "retry": {"backoff_seconds": 0}}]}


class Executing(FakeBackend):
    """Says that its jobs run something."""

    capabilities: ClassVar[Capabilities] = Capabilities(find=True, bulk_status=True)
    meanwhile: Callable[[], None] = staticmethod(lambda: None)
    """What happens elsewhere between the call of `submit_many` and the submission."""

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        self.meanwhile()
        return super().submit_many(requests)


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


@pytest.fixture
def workers(make_context: ContextMaker) -> tuple[Context, Context, Executing]:
    """Two workers of one backend."""
    first, second, backend = make_context("noop"), make_context("noop"), Executing()
    for context in (first, second):
        context.use_backend("noop", backend)
    return first, second, backend


def start(context: Context) -> UUID:
    run_id, *_ = context.submitter.submit(RunRequest(spec=SPEC), actor="test")
    return run_id


def row(context: Context) -> Any:
    with context.database.read() as unit:
        return unit.execute("SELECT * FROM step_runs").one()


def expire(context: Context) -> None:
    """The lease of whoever holds something is over, and the sweep notices."""
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET lease_until = now() - interval '1 s', not_before = NULL")
    LeaseSweep(context.database, context.doorbell).tick()


def test_a_job_submitted_after_the_cancel_was_carried_out_is_stopped(
    workers: tuple[Context, Context, Executing],
) -> None:
    slow, other, backend = workers
    run_id = start(slow)

    def cancelled_elsewhere() -> None:
        expire(other)
        other.requests.cancel([run_id], actor="anna")
        assert other.canceller.cancel_wanted("noop") == 1

    backend.meanwhile = cancelled_elsewhere
    slow.launcher.launch("noop", 1)
    assert row(slow).status == "CANCELLED"
    assert backend.cancelled == ["fake-1"]


def test_a_job_submitted_after_another_worker_has_submitted_one_is_stopped(
    workers: tuple[Context, Context, Executing],
) -> None:
    slow, other, backend = workers
    start(slow)

    def launched_elsewhere() -> None:
        backend.meanwhile = lambda: None
        expire(other)
        other.launcher.launch("noop", 1)

    backend.meanwhile = launched_elsewhere
    slow.launcher.launch("noop", 1)
    assert (row(slow).status, row(slow).job_id, row(slow).attempt) == ("SUBMITTED", "fake-1", 1)
    assert backend.cancelled == ["fake-2"]


def test_a_job_submitted_too_late_is_left_to_the_worker_that_will_find_it(
    workers: tuple[Context, Context, Executing],
) -> None:
    slow, other, backend = workers
    start(slow)
    backend.meanwhile = lambda: expire(other)
    slow.launcher.launch("noop", 1)
    assert (row(slow).status, backend.cancelled) == ("PENDING", [])
    backend.meanwhile = lambda: None
    other.launcher.launch("noop", 1)
    assert (row(slow).status, row(slow).job_id, len(backend.jobs)) == ("SUBMITTED", "fake-1", 1)


def with_unknown_job(context: Context, backend: Executing) -> None:
    """The backend has taken the job, and nobody has been told."""
    backend.accept_then_fail = BackendUnavailable("timed out")
    context.launcher.launch("noop", 1)
    backend.accept_then_fail = None
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET not_before = NULL")
        unit.execute("UPDATE backends SET retry_at = now()")


def test_an_error_while_looking_for_a_job_begins_no_other_attempt(
    workers: tuple[Context, Context, Executing], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _, backend = workers
    start(context)
    with_unknown_job(context, backend)

    def broken(job_name: str) -> str | None:
        raise RuntimeError("a bug of the backend")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "find", broken)
        context.launcher.launch("noop", 1)
    assert (row(context).status, row(context).attempt) == ("PENDING", 1)
    assert "a bug of the backend" in row(context).waiting_for
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET not_before = NULL")
        unit.execute("UPDATE backends SET retry_at = now()")
    context.launcher.launch("noop", 1)
    assert (row(context).job_id, row(context).attempt, len(backend.jobs)) == ("fake-1", 1, 1)


def test_a_cancel_while_the_job_is_being_looked_for_stops_it(workers: tuple[Context, Context, Executing]) -> None:
    context, other, backend = workers
    run_id = start(context)
    with_unknown_job(context, backend)
    # The cancel comes between the claim and the first look, and every look renews the lease.
    object.__setattr__(context.worker_context, "lease_seconds", 1e-6)
    cancel = CallOnce("commit.claim", failpoints.AFTER, lambda: other.requests.cancel([run_id], actor="anna"))
    failpoints.arm(cancel)
    context.launcher.launch("noop", 1)
    assert row(context).status == "PENDING"
    other.canceller.cancel_wanted("noop")
    assert (row(context).status, backend.cancelled) == ("CANCELLED", ["fake-1"])


def test_a_backend_that_works_again_has_no_problem_any_more(context: Context) -> None:
    backend = FakeBackend()
    context.use_backend("noop", backend)

    def problem() -> str | None:
        with context.database.begin() as unit:
            unit.execute("UPDATE backends SET retry_at = now()")
            unit.execute("UPDATE step_runs SET not_before = NULL")
            found: str | None = unit.execute("SELECT problem FROM backends WHERE name = 'noop'").scalar()
        return found

    start(context)
    backend.submit_error = BackendUnavailable("no route to host")
    context.launcher.launch("noop", 1)
    assert problem() == "no route to host"
    backend.submit_error = None
    context.launcher.launch("noop", 1)
    assert problem() is None
    backend.status_error = BackendUnavailable("still no route")
    context.poller.poll_all("noop")
    assert problem() == "still no route"
    backend.status_error = None
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    context.poller.poll_all("noop")
    assert problem() is None


def test_a_worker_that_dies_while_it_follows_is_replaced_when_its_lease_is_over(make_context: ContextMaker) -> None:
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
        first.poller.poll_all("noop")
    with second.database.read() as unit:
        left = unit.execute("SELECT extract(epoch FROM poll_lease_until - now()) FROM backends").scalar()
    assert left is None or left <= 2
