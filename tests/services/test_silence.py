"""Backends that do not know a job, do not answer, or raise: what is concluded, and what the API shows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.step_runs import step_run_detail
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import launch, poll, row, start

AWAY = BackendUnavailable("slurmctld is away")
UNEXPECTED = "noop failed in an unexpected way"
NO_WORKER = "no worker"


def start_job(context: Context) -> None:
    start(context)
    assert launch(context) == 1


def shown_wait(context: Context) -> Any:
    """The `waiting_for` of the step run in the API."""
    with context.database.read() as unit:
        text = step_run_detail(unit, unit.execute("SELECT id FROM step_runs").scalar_one())
    assert text is not None
    return json.loads(text)["waiting_for"]


def make_unknown_for_long(context: Context) -> None:
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET unknown_since = now() - interval '150 seconds'")


def pass_minutes(context: Context, minutes: int) -> None:
    """As if everything that is known about the backend and its jobs were older by so much."""
    with context.database.begin() as unit:
        past = {"m": minutes}
        unit.execute("UPDATE step_runs SET unknown_since = unknown_since - :m * interval '1 minute'", past)
        unit.execute("UPDATE backends SET answered_at = answered_at - :m * interval '1 minute', retry_at = now()", past)


def unknown_seconds(context: Context) -> float:
    return float(row(context, "extract(epoch FROM now() - unknown_since)::float8 AS seconds").seconds)


def test_an_unknown_job_is_lost_when_the_grace_is_over(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    backend.drop("fake-1")
    poll(context)
    found = row(context)
    assert found.status == "SUBMITTED"
    assert "does not know the job" in found.waiting_for
    make_unknown_for_long(context)
    poll(context)
    found = row(context)
    assert (found.status, found.attempt) == ("PENDING", 1)
    assert row(context, table="attempts").reason == "lost"


def test_a_job_that_reappears_goes_on(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    job = backend.jobs["fake-1"]
    backend.drop("fake-1")
    poll(context)
    assert row(context).unknown_since is not None
    backend.jobs["fake-1"] = job
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    poll(context)
    found = row(context)
    assert (found.status, found.unknown_since) == ("RUNNING", None)


def test_time_without_answers_does_not_count(context: Context, backend: FakeBackend) -> None:
    """Unknown, then ten minutes without an answer, then unknown again: the ten minutes do not count."""
    start_job(context)
    backend.drop("fake-1")
    poll(context)
    backend.status_error = AWAY
    poll(context)
    pass_minutes(context, 10)
    poll(context)
    backend.status_error = None
    poll(context)
    assert row(context).status == "SUBMITTED"
    assert 30 < unknown_seconds(context) < 300


def test_time_without_polls_does_not_count(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    backend.drop("fake-1")
    poll(context)
    pass_minutes(context, 10)
    poll(context)
    assert row(context).status == "SUBMITTED"


def test_rare_polls_add_up_to_the_grace(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    backend.drop("fake-1")
    for _ in range(4):
        assert row(context).status == "SUBMITTED"
        poll(context)
        pass_minutes(context, 10)
    poll(context)
    attempt = row(context, table="attempts")
    assert attempt.reason == "lost"
    assert re.search(r"for 1[2-9]\d s", attempt.reason_text)


def test_a_lost_job_is_not_cleaned_up(context: Context, backend: FakeBackend) -> None:
    """It may reappear, and the backend must then know whose it is."""
    start_job(context)
    backend.drop("fake-1")
    poll(context)
    make_unknown_for_long(context)
    poll(context)
    assert row(context, table="attempts").reason == "lost"
    assert backend.cleaned == []


def test_a_failed_job_is_cleaned_up(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.FAILED, 3))
    poll(context)
    assert backend.cleaned == ["fake-1"]


def test_a_cancel_that_ends_with_the_grace_is_not_confirmed(context: Context, backend: FakeBackend) -> None:
    run_ids = start(context)
    launch(context)
    backend.drop("fake-1")
    context.requests.cancel(run_ids, actor="anna")
    poll(context)
    make_unknown_for_long(context)
    poll(context)
    found = row(context)
    assert found.status == "CANCELLED"
    assert re.search(r"fake-1 for 15\d s", found.reason_text)
    assert row(context, table="attempts").warnings == [found.reason_text]
    assert backend.cleaned == []


# --- what the API shows -----------------------------------------------------------------------------------------------


def test_an_unavailable_backend_is_shown_until_it_answers(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    context.heartbeat.beat()
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    poll(context)
    assert shown_wait(context) is None
    backend.status_error = AWAY
    poll(context)
    assert row(context).status == "RUNNING"
    assert AWAY.message in shown_wait(context)
    backend.status_error = None
    pass_minutes(context, 0)
    poll(context)
    assert shown_wait(context) is None


def test_the_last_reason_before_a_problem_is_shown_too(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    context.heartbeat.beat()
    backend.set_state("fake-1", HPCJobInfo(JobStatus.PENDING, message="Priority"))
    poll(context)
    assert shown_wait(context) == "Priority"
    backend.status_error = AWAY
    poll(context)
    assert AWAY.message in shown_wait(context)
    assert "Priority" in shown_wait(context)


def test_a_backend_without_worker_is_shown(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    assert NO_WORKER in shown_wait(context)
    assert "queued at noop" in shown_wait(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    poll(context)
    assert NO_WORKER in shown_wait(context)


def test_results_without_worker_are_shown(context: Context, backend: FakeBackend) -> None:
    start_job(context)
    with context.database.begin() as unit:
        unit.execute(
            "UPDATE step_runs SET status = 'COLLECTING_RESULTS', waiting_for = NULL,"
            " lease_owner = 'w', lease_until = now() - interval '1 second'"
        )
    assert NO_WORKER in shown_wait(context)
    context.heartbeat.beat()
    assert NO_WORKER not in shown_wait(context)
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET lease_owner = 'w', lease_until = now() + interval '1 minute'")
    assert shown_wait(context) is None


@pytest.mark.parametrize("answer", ["raises", "leaves one out"])
def test_an_exception_of_a_backend_is_shown(
    context: Context, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    def broken(job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        if answer == "raises":
            raise ZeroDivisionError("a bug")
        return {}

    start_job(context)
    context.heartbeat.beat()
    monkeypatch.setattr(backend, "get_statuses", broken)
    poll(context)
    assert row(context).status == "SUBMITTED"
    assert UNEXPECTED in shown_wait(context)


def test_an_exception_of_a_constructor_is_shown(
    context: Context, backend: FakeBackend, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> HPCBackend:
        raise ZeroDivisionError("a bug")

    start_job(context)
    context.heartbeat.beat()
    monkeypatch.setattr(registry, "create_filtered", broken)
    poll(make_context("noop"))
    assert UNEXPECTED in shown_wait(context)
