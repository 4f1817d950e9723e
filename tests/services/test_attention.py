"""What only a person can help on is listed: cancels that nobody confirms, held steps, jobs that do not stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ccat_workflow_manager.commands import checks
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.attention import attention_count, attention_page
from ccat_workflow_manager.db.queries.service import backend_states
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.services.test_cancel import SPEC, Noting, start
from tests.support.fixtures_store import ContextMaker


@pytest.fixture
def backend() -> Noting:
    return Noting()


@pytest.fixture
def context(make_context: ContextMaker, backend: Noting) -> Context:
    context = make_context("noop", CANCEL_CONFIRM_SECONDS=0.01, BREAKER_FAILURES=2, BREAKER_PROBE_MINUTES=0)
    context._backends["noop"] = backend
    return context


def listed(context: Context) -> list[tuple[Any, str]]:
    with context.database.read() as unit:
        found = [json.loads(row.json) for row in attention_page(unit, None, 100)]
        assert attention_count(unit) == len(found)
    return [(each["job_id"], each["text"]) for each in found]


def test_a_cancel_that_nobody_confirms_for_long(context: Context, backend: Noting) -> None:
    backend.stubborn = True
    context.requests.cancel(start(context), actor="anna")
    context.canceller.cancel_wanted("noop")
    assert listed(context) == []
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET cancel_requested_at = now() - interval '25 minutes'")
    assert listed(context) == [
        ("fake-1", "cancel not confirmed for 25 min: asked noop to stop the job; not confirmed yet")
    ]
    told = checks.attention(context.database)
    assert told.ok is None
    assert "job fake-1: cancel not confirmed" in told.message


def test_what_only_a_person_releases(context: Context, backend: FakeBackend) -> None:
    context.submitter.submit_bulk([RunRequest(spec=SPEC)] * 4, actor="test")
    for number in (1, 2):
        context.launcher.launch("noop", 1)
        backend.set_state(f"fake-{number}", HPCJobInfo(JobStatus.FAILED, 3))
        context.poller.poll_all("noop")
    assert context.launcher.launch("noop", 10) == 0
    found = listed(context)
    assert [job_id for job_id, _ in found] == [None, None]
    assert all("failed the same way" in text and "ccat-wm breakers release" in text for _, text in found)
    assert "job None" not in checks.attention(context.database).message
    # With a try in sight it waits for that.
    with context.database.begin() as unit:
        unit.execute("UPDATE breakers SET probe_at = now() + interval '1 minute'")
    assert listed(context) == []


# --- jobs that do not stop --------------------------------------------------------------------------------------------


def leave_a_stray(context: Context, backend: Noting) -> None:
    start(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.poller.poll_all("noop")
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    backend.forgotten.clear()


def reap(context: Context) -> int:
    with context.database.begin() as unit:
        unit.execute("UPDATE events SET at = at - interval '1 hour'")
        unit.execute("UPDATE backends SET reaped_at = NULL")
    return context.reaper.reap("noop")


def problem(context: Context) -> str | None:
    with context.database.read() as unit:
        return backend_states(unit)["noop"].reap_problem


def warnings(context: Context) -> Any:
    with context.database.read() as unit:
        return unit.execute("SELECT warnings FROM attempts").scalar()


def test_a_stray_that_cannot_be_stopped(context: Context, backend: Noting) -> None:
    leave_a_stray(context, backend)
    backend.cancel_error = BackendUnavailable("slurmctld does not answer")
    assert reap(context) == 1
    words = "1 jobs of attempts that are over could not be stopped: slurmctld does not answer"
    assert problem(context) == words
    assert listed(context) == [
        (
            "fake-1",
            f"the job fake-1 of attempt 1 does not stop although the attempt is over: stop it at noop; {words}",
        )
    ]
    told = checks.orphan_jobs(context.database)
    assert (told.ok, words in told.message) == (None, True)
    assert warnings(context) == [
        "the job fake-1 was still there after this attempt was over, and could not be stopped at once"
    ]
    backend.cancel_error = None
    assert [reap(context), reap(context)] == [1, 0]
    assert (problem(context), listed(context)) == (None, [])
    assert len(warnings(context)) == 2


def test_a_stray_that_does_not_obey(context: Context, backend: Noting) -> None:
    leave_a_stray(context, backend)
    backend.stubborn = True
    reap(context)
    assert listed(context) == []
    reap(context)
    assert [job_id for job_id, _ in listed(context)] == ["fake-1"]


def test_a_stray_that_has_stopped_is_forgotten_by_its_backend(
    context: Context, backend: Noting, make_context: ContextMaker
) -> None:
    leave_a_stray(context, backend)
    reap(context)
    assert backend.forgotten == []
    other = make_context("noop")
    other._backends["noop"] = backend
    reap(other)
    assert backend.forgotten == ["fake-1"]
    reap(context)
    assert backend.forgotten == ["fake-1"]


@pytest.mark.parametrize("error", [BackendUnavailable("squeue: timed out"), RuntimeError("squeue: a bug")])
def test_a_search_that_fails_is_told(
    context: Context, backend: Noting, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken() -> Sequence[Any]:
        raise error

    start(context)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "list_jobs", broken)
        assert reap(context) == 0
    told = checks.orphan_jobs(context.database)
    assert told.ok is None
    assert "its jobs cannot be listed" in told.message
    assert str(error.args[0]) in told.message
    reap(context)
    assert problem(context) is None
