"""The list of what needs an operator: unconfirmed cancels, step runs of an open breaker, orphans that do not stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.commands import checks
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.attention import attention_count, attention_page
from ccat_workflow_manager.db.queries.service import backend_states
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import cancel_wanted, launch, poll, row, start


@pytest.fixture
def context(make_context: ContextMaker) -> Context:
    return make_context("noop", CANCEL_CONFIRM_SECONDS=0.01, BREAKER_FAILURES=2, BREAKER_PROBE_MINUTES=0)


def start_job(context: Context) -> list[UUID]:
    run_ids = start(context)
    assert launch(context) == 1
    return run_ids


def listed(context: Context) -> list[tuple[Any, str]]:
    with context.database.read() as unit:
        found = [json.loads(each.json) for each in attention_page(unit, None, 100)]
        assert attention_count(unit) == len(found)
    return [(each["job_id"], each["text"]) for each in found]


def test_a_cancel_that_is_not_confirmed_for_long(context: Context, backend: FakeBackend) -> None:
    backend.stubborn = True
    context.requests.cancel(start_job(context), actor="anna")
    cancel_wanted(context)
    assert listed(context) == []
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET cancel_requested_at = now() - interval '25 minutes'")
    [(job_id, text)] = listed(context)
    assert job_id == "fake-1"
    assert "25 min" in text
    check = checks.attention(context.database)
    assert check.ok is None
    assert text in check.message


def test_a_breaker_that_only_an_operator_releases(context: Context, backend: FakeBackend) -> None:
    start(context, count=4)
    for number in (1, 2):
        context.launcher.launch("noop", 1)
        backend.set_state(f"fake-{number}", HPCJobInfo(JobStatus.FAILED, 3))
        poll(context)
    assert context.launcher.launch("noop", 10) == 0
    found = listed(context)
    assert [job_id for job_id, _ in found] == [None, None]
    assert all("ccat-wm breakers release" in text for _, text in found)
    assert "job None" not in checks.attention(context.database).message
    # Before a scheduled probe nothing is listed.
    with context.database.begin() as unit:
        unit.execute("UPDATE breakers SET probe_at = now() + interval '1 minute'")
    assert listed(context) == []


def test_a_full_disk_needs_an_operator(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    full = HPCJobInfo(JobStatus.FAILED, 1, reason=FailureReason.DISK_FULL, message="/data has 0.00 GB of 9.00 GB free")
    backend.set_state("fake-1", full)
    poll(context)
    [(_, text)] = listed(context)
    assert "/data has 0.00 GB of 9.00 GB free" in text
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET status = 'FAILED', finished_at = now()")
    assert len(listed(context)) == 1
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET finished_at = now() - interval '2 days'")
    assert listed(context) == []


# --- orphans that do not stop -----------------------------------------------------------------------------------------


def leave_orphan(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    poll(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    backend.cleaned.clear()


def reap(context: Context) -> int:
    with context.database.begin() as unit:
        unit.execute("UPDATE events SET at = at - interval '1 hour'")
        unit.execute("UPDATE backends SET reaped_at = NULL")
    return context.reaper.reap("noop")


def reap_problem(context: Context) -> str | None:
    with context.database.read() as unit:
        return backend_states(unit)["noop"].reap_problem


def warnings(context: Context) -> Any:
    return row(context, table="attempts").warnings


def test_an_orphan_that_cannot_be_stopped(context: Context, backend: FakeBackend) -> None:
    leave_orphan(context, backend)
    backend.cancel_error = BackendUnavailable("slurmctld does not answer")
    assert reap(context) == 1
    problem = str(reap_problem(context))
    assert "slurmctld does not answer" in problem
    [(job_id, text)] = listed(context)
    assert job_id == "fake-1"
    assert problem in text
    check = checks.orphan_jobs(context.database)
    assert check.ok is None
    assert problem in check.message
    [warning] = warnings(context)
    assert "fake-1" in warning
    backend.cancel_error = None
    assert [reap(context), reap(context)] == [1, 0]
    assert (reap_problem(context), listed(context)) == (None, [])
    assert len(warnings(context)) == 2


def test_an_orphan_that_does_not_stop(context: Context, backend: FakeBackend) -> None:
    leave_orphan(context, backend)
    backend.stubborn = True
    reap(context)
    assert listed(context) == []
    reap(context)
    assert [job_id for job_id, _ in listed(context)] == ["fake-1"]


def test_an_orphan_that_has_stopped_is_cleaned_up(
    context: Context, backend: FakeBackend, make_context: ContextMaker
) -> None:
    leave_orphan(context, backend)
    reap(context)
    assert backend.cleaned == []
    other = make_context("noop")
    other.use_backend("noop", backend)
    reap(other)
    assert backend.cleaned == ["fake-1"]
    reap(context)
    assert backend.cleaned == ["fake-1"]


@pytest.mark.parametrize("error", [BackendUnavailable("squeue: timed out"), RuntimeError("squeue: a bug")])
def test_a_failed_search_is_reported(
    context: Context, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken() -> Sequence[Any]:
        raise error

    start_job(context)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "list_jobs", broken)
        assert reap(context) == 0
    check = checks.orphan_jobs(context.database)
    assert check.ok is None
    assert str(error.args[0]) in check.message
    reap(context)
    assert reap_problem(context) is None
