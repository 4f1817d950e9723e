"""Backends that do not know a job, do not answer, or answer nonsense: what is concluded, and what is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.step_runs import step_run_detail
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from tests.services.test_cancel import Noting, rows, start

AWAY = BackendUnavailable("slurmctld is away")


@pytest.fixture
def backend(context: Context) -> Noting:
    backend = Noting()
    context._backends["noop"] = backend
    return backend


def shown(context: Context) -> Any:
    with context.database.read() as unit:
        step_run_id = unit.execute("SELECT id FROM step_runs").scalar_one()
        text = step_run_detail(unit, step_run_id)
    assert text is not None
    return json.loads(text)


def pass_minutes(context: Context, minutes: int) -> None:
    """As if so much time had passed since everything that is known about the backend and its jobs."""
    with context.database.begin() as unit:
        past = {"m": minutes}
        unit.execute("UPDATE step_runs SET unknown_since = unknown_since - :m * interval '1 minute'", past)
        unit.execute("UPDATE backends SET answered_at = answered_at - :m * interval '1 minute', retry_at = now()", past)


def unknown_seconds(context: Context) -> float:
    with context.database.read() as unit:
        seconds = unit.execute("SELECT extract(epoch FROM now() - unknown_since)::float8 FROM step_runs").scalar_one()
        return float(seconds)


def test_while_nobody_could_ask_nobody_was_silent(context: Context, backend: Noting) -> None:
    """Unknown once, ten minutes without an answer, unknown once more: that is no silence of ten minutes."""
    start(context)
    backend.drop("fake-1")
    context.poller.poll_all("noop")
    backend.status_error = AWAY
    context.poller.poll_all("noop")
    pass_minutes(context, 10)
    context.poller.poll_all("noop")
    backend.status_error = None
    context.poller.poll_all("noop")
    assert rows(context)[0].status == "SUBMITTED"
    assert 30 < unknown_seconds(context) < 50


def test_without_a_worker_nobody_was_silent_either(context: Context, backend: Noting) -> None:
    start(context)
    backend.drop("fake-1")
    context.poller.poll_all("noop")
    pass_minutes(context, 10)
    context.poller.poll_all("noop")
    assert rows(context)[0].status == "SUBMITTED"


def test_silence_adds_up_to_the_grace_however_seldom_somebody_asks(context: Context, backend: Noting) -> None:
    start(context)
    backend.drop("fake-1")
    for _ in range(4):
        assert rows(context)[0].status == "SUBMITTED"
        context.poller.poll_all("noop")
        pass_minutes(context, 10)
    context.poller.poll_all("noop")
    with context.database.read() as unit:
        found = unit.execute("SELECT reason, reason_text FROM attempts").one()
    assert found.reason == "lost"
    assert "for 120 s" in found.reason_text


def test_a_job_that_is_taken_as_lost_stays_known_to_its_backend(context: Context, backend: Noting) -> None:
    """It may come back, and whose it is must be told then."""
    start(context)
    backend.drop("fake-1")
    context.poller.poll_all("noop")
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET unknown_since = now() - interval '10 minutes'")
    context.poller.poll_all("noop")
    with context.database.read() as unit:
        assert unit.execute("SELECT reason FROM attempts").scalar() == "lost"
    assert backend.forgotten == []


def test_a_job_that_failed_is_forgotten(context: Context, backend: Noting) -> None:
    start(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.FAILED, 3))
    context.poller.poll_all("noop")
    assert backend.forgotten == ["fake-1"]


def test_a_cancel_that_ends_with_the_grace_says_that_it_was_not_confirmed(context: Context, backend: Noting) -> None:
    runs = start(context)
    backend.drop("fake-1")
    context.requests.cancel(runs, actor="anna")
    context.poller.poll_all("noop")
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET unknown_since = now() - interval '150 seconds'")
    context.poller.poll_all("noop")
    [row] = rows(context, "status, reason_text")
    words = "cancelled; noop has not known the job fake-1 for 150 s, the stop is not confirmed"
    assert tuple(row) == ("CANCELLED", words)
    with context.database.read() as unit:
        assert unit.execute("SELECT warnings FROM attempts").scalar() == [words]
    assert backend.forgotten == []


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_job_whose_backend_is_away_says_so_until_it_answers(context: Context, backend: Noting) -> None:
    start(context)
    context.alive()
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    context.poller.poll_all("noop")
    assert shown(context)["waiting_for"] is None
    backend.status_error = AWAY
    context.poller.poll_all("noop")
    assert (shown(context)["status"], shown(context)["waiting_for"]) == (
        "RUNNING", "the backend noop is not available: slurmctld is away",
    )  # fmt: skip
    backend.status_error = None
    pass_minutes(context, 0)
    context.poller.poll_all("noop")
    assert shown(context)["waiting_for"] is None


def test_what_was_known_before_the_backend_went_away_is_shown_as_such(context: Context, backend: Noting) -> None:
    start(context)
    context.alive()
    backend.set_state("fake-1", HPCJobInfo(JobStatus.PENDING, message="Priority"))
    context.poller.poll_all("noop")
    assert shown(context)["waiting_for"] == "Priority"
    backend.status_error = AWAY
    context.poller.poll_all("noop")
    assert (
        shown(context)["waiting_for"] == "the backend noop is not available: slurmctld is away; before that: Priority"
    )


def test_a_job_that_no_worker_looks_after_says_so(context: Context, backend: Noting) -> None:
    start(context)
    assert shown(context)["waiting_for"] == "no worker serves the backend noop; before that: queued at noop"
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    context.poller.poll_all("noop")
    assert shown(context)["waiting_for"] == "no worker serves the backend noop"


def test_results_that_nobody_collects_say_so(context: Context, backend: Noting) -> None:
    start(context)
    with context.database.begin() as unit:
        unit.execute(
            "UPDATE step_runs SET status = 'COLLECTING_RESULTS', waiting_for = NULL,"
            " lease_owner = 'w', lease_until = now() - interval '1 second'"
        )
    assert shown(context)["waiting_for"] == "no worker serves the backend noop"
    context.alive()
    assert shown(context)["waiting_for"] == "its results wait for a worker of backend noop"
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET lease_owner = 'w', lease_until = now() + interval '1 minute'")
    assert shown(context)["waiting_for"] is None


@pytest.mark.parametrize("answer", ["raises", "leaves one out"])
def test_a_fault_in_a_backend_is_shown(
    context: Context, backend: Noting, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    def broken(job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        if answer == "raises":
            raise ZeroDivisionError("a bug")
        return {}

    start(context)
    context.alive()
    monkeypatch.setattr(backend, "get_statuses", broken)
    context.poller.poll_all("noop")
    assert rows(context)[0].status == "SUBMITTED"
    assert "noop failed in an unexpected way" in shown(context)["waiting_for"]


def test_a_backend_that_cannot_even_be_made_is_shown(
    context: Context, backend: Noting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    start(context)
    context.alive()
    context._backends.clear()
    monkeypatch.setattr(registry, "create_filtered", broken)
    context.poller.poll_all("noop")
    assert "noop failed in an unexpected way" in shown(context)["waiting_for"]
