"""Launching when some of what was claimed cannot be launched: each step run by itself, and never a second job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import AttemptError, BackendError, BackendUnavailable, JobDeferred
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend


class Choosy(FakeBackend):
    """Keeps out what asks for a lot of memory, as a limit of a site does."""

    says_so_before = False

    def _limit(self, resources: Resources) -> JobDeferred | None:
        return JobDeferred("AssocGrpMemLimit") if resources.memory_gb > 100 else None

    def full(self, resources: Resources, priority: int) -> JobDeferred | None:
        return self._limit(resources) if self.says_so_before else None

    def accept(self, request: JobRequest) -> str:
        if (limit := self._limit(request.resource_requirements)) is not None:
            raise limit
        return super().accept(request)


@pytest.fixture
def fake(context: Context) -> Choosy:
    backend = Choosy()
    context._backends["noop"] = backend
    return backend


def start(context: Context, memory_gb: float = 1, **request: Any) -> UUID:
    step = {"name": "only", "command": ["a"], "resources": {"memory_gb": memory_gb}, "retry": {"max_attempts": 3}}
    run_id, *_ = context.submitter.submit(RunRequest(spec={"name": "one", "steps": [step]}, **request), actor="test")
    return run_id


def rows(context: Context, columns: str = "*") -> list[Any]:
    with context.database.read() as unit:
        return list(unit.execute(f"SELECT {columns} FROM step_runs ORDER BY id").all())


def problem(context: Context) -> str | None:
    with context.database.read() as unit:
        row = unit.execute("SELECT problem FROM backends WHERE name = 'noop'").first()
        return row.problem if row is not None else None


def let_time_pass(context: Context) -> None:
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET not_before = NULL")
        unit.execute("UPDATE backends SET retry_at = now()")


def taken_and_never_told(context: Context, fake: Choosy) -> None:
    """What is ready gets jobs that nobody here knows of, and may be tried again."""
    fake.accept_then_fail = BackendUnavailable("timed out")
    context.launcher.launch("noop", 10)
    fake.accept_then_fail = None
    let_time_pass(context)


@pytest.mark.parametrize("before", [True, False], ids=["before it is staged", "by the submit command"])
def test_a_limit_keeps_out_what_it_concerns_and_nothing_else(context: Context, fake: Choosy, before: bool) -> None:
    fake.says_so_before = before
    start(context, memory_gb=200)
    start(context)
    assert context.launcher.launch("noop", 10) == 2
    big, small = rows(context)
    assert (big.status, big.waiting_for) == ("PENDING", "AssocGrpMemLimit")
    assert small.status == "SUBMITTED"
    assert problem(context) is None


def test_what_is_kept_out_does_not_stand_in_the_way_of_the_rest(context: Context, fake: Choosy) -> None:
    """It is tried less and less often, and meanwhile whatever is behind it is claimed."""
    start(context, memory_gb=200)
    start(context)
    delays = "extract(epoch FROM not_before - now())::float AS delay"
    seen = []
    for _ in range(8):
        context.launcher.launch("noop", 1)
        seen.append(rows(context, delays)[0].delay)
        context.launcher.launch("noop", 1)
        with context.database.begin() as unit:
            unit.execute("UPDATE step_runs SET not_before = NULL")
    assert rows(context)[1].status == "SUBMITTED"
    assert [round(delay, -1) for delay in seen] == [10, 20, 30, 40, 50, 60, 60, 60]


def test_no_second_attempt_while_a_job_of_the_first_may_be_there(
    context: Context, fake: Choosy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs were taken and nobody knows; then the one cannot be searched and the other could not be staged."""
    start(context)
    start(context)
    taken_and_never_told(context, fake)
    with monkeypatch.context() as patch:
        patch.setattr(fake, "find", _raising(BackendUnavailable("no route to host")))
        patch.setattr(context.launcher, "_request", _raising(AttemptError(FailureReason.DISK_FULL, "no space")))
        context.launcher.launch("noop", 10)
    assert [(row.status, row.attempt) for row in rows(context)] == [("PENDING", 1)] * 2
    let_time_pass(context)
    context.launcher.launch("noop", 10)
    assert [(row.status, row.attempt, row.job_id) for row in rows(context)] == [
        ("SUBMITTED", 1, "fake-1"), ("SUBMITTED", 1, "fake-2"),
    ]  # fmt: skip
    assert len(fake.jobs) == 2


def test_a_try_that_is_not_settled_concerns_its_own_job_only(
    context: Context, fake: Choosy, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(context)
    taken_and_never_told(context, fake)
    start(context)
    with monkeypatch.context() as patch:
        patch.setattr(fake, "find", _raising(JobDeferred("whether it was taken is not known yet")))
        context.launcher.launch("noop", 10)
    first, second = rows(context)
    assert (first.status, first.waiting_for) == ("PENDING", "whether it was taken is not known yet")
    assert second.status == "SUBMITTED"
    assert problem(context) is None


@pytest.mark.parametrize("call", ["submit_many", "find", "full"])
def test_a_fault_in_a_backend_is_shown_and_loses_nothing(
    context: Context, fake: Choosy, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    start(context)
    fake.submit_error = BackendUnavailable("away")
    context.launcher.launch("noop", 10)
    fake.submit_error = None
    let_time_pass(context)
    with monkeypatch.context() as patch:
        patch.setattr(fake, call, _raising(ZeroDivisionError("division by zero")))
        context.launcher.launch("noop", 10)
    (row,) = rows(context)
    assert (row.status, row.attempt) == ("PENDING", 1)
    assert "division by zero" in row.waiting_for
    assert "division by zero" in str(problem(context))
    let_time_pass(context)
    context.launcher.launch("noop", 10)
    assert rows(context)[0].status == "SUBMITTED"


def test_what_is_cancelled_in_the_last_moment_is_not_submitted(
    context: Context, fake: Choosy, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(context)
    unwanted = start(context)
    lost = start(context)
    monkeypatch.setattr(FakeBackend, "submit_seconds", 1.0)
    handed: list[JobRequest] = []

    def full(resources: Resources, priority: int) -> None:
        """Called for each while it is prepared, before the leases are renewed."""
        context.requests.cancel([unwanted], actor="anna")
        with context.database.begin() as unit:
            unit.execute("UPDATE step_runs SET token = token + 1 WHERE run_id = :run", {"run": lost})

    def submit_many(requests: Sequence[JobRequest]) -> list[str | BackendError]:
        handed.extend(requests)
        return FakeBackend.submit_many(fake, requests)

    monkeypatch.setattr(fake, "full", full)
    monkeypatch.setattr(fake, "submit_many", submit_many)
    context.launcher.launch("noop", 10)
    assert len(handed) == 1
    assert [row.status for row in rows(context)] == ["SUBMITTED", "CANCELLED", "STAGING_DATA"]


def _raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
