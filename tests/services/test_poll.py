"""Polling: what the states of jobs do to their step runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.waiting import ACTION_REQUIRED
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.step_runs import backend_problem, launch, one_step, poll, row, rows, start

RETRY = {"max_attempts": 3, "backoff_seconds": 0, "memory_cap_gb": 6, "memory_factor": 2, "time_factor": 3}
SPEC = one_step(resources={"memory_gb": 2, "time_hours": 1}, retry=RETRY)


def attempts(context: Context) -> list[Any]:
    return rows(context, table="attempts")


def end(backend: FakeBackend, job_id: str, **info: Any) -> None:
    backend.set_state(job_id, HPCJobInfo(**{"status": JobStatus.FAILED, **info}))


def test_every_state_of_a_job_is_recorded(context: Context, backend: FakeBackend) -> None:
    start(context, SPEC)
    assert launch(context) == 1
    assert row(context).status == "SUBMITTED"
    backend.set_state("fake-1", HPCJobInfo(JobStatus.PENDING, message="Priority"))
    poll(context)
    assert row(context).waiting_for == "Priority"
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    poll(context)
    found = row(context)
    assert (found.status, found.waiting_for) == ("RUNNING", None)
    assert found.started_at is not None
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0, 12.5, 0.25, 1.5))
    poll(context)
    found = row(context)
    assert (found.status, found.exit_code, found.wall_time_seconds, found.cpu_hours, found.peak_memory_gb) == (
        "COMPLETED", 0, 12.5, 0.25, 1.5,
    )  # fmt: skip
    assert row(context, "status", "runs").status == "COMPLETED"


@pytest.mark.parametrize("hours", [-48, 0, 48])
@pytest.mark.parametrize("ends_at_once", [True, False])
def test_the_times_of_a_step_run_are_in_order(
    context: Context, backend: FakeBackend, hours: float, ends_at_once: bool
) -> None:
    """Whatever the clock of a node says, and though `submit` returns after the job has started."""
    start(context, SPEC)
    assert launch(context) == 1
    began = datetime.now(UTC) + timedelta(hours=hours)
    if not ends_at_once:
        backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING, started_at=began))
        poll(context)
        found = row(context)
        assert found.created_at <= found.submitted_at <= found.started_at
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0, 1.0, started_at=began, finished_at=began))
    poll(context)
    found = row(context)
    assert found.status == "COMPLETED"
    assert found.created_at <= found.submitted_at <= found.started_at <= found.finished_at
    (attempt,) = attempts(context)
    assert found.created_at <= attempt.claimed_at <= attempt.submitted_at <= attempt.started_at
    assert attempt.started_at <= attempt.finished_at <= found.finished_at
    if hours == 0:
        assert found.started_at == attempt.started_at == began


def test_a_running_job_without_times_has_no_end(context: Context, backend: FakeBackend) -> None:
    start(context, SPEC)
    assert launch(context) == 1
    backend.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    poll(context)
    (attempt,) = attempts(context)
    assert (attempt.started_at is not None, attempt.finished_at) == (True, None)


def test_a_running_job_says_why_it_does_not_go_on(context: Context, backend: FakeBackend) -> None:
    start(context, SPEC)
    assert launch(context) == 1
    told = [
        (HPCJobInfo(JobStatus.RUNNING, message="the node n1 does not answer"), "the node n1 does not answer"),
        (HPCJobInfo(JobStatus.RUNNING), None),
        (HPCJobInfo(JobStatus.RUNNING, message="full", attention=True), f"{ACTION_REQUIRED}full"),
        (HPCJobInfo(JobStatus.RUNNING), None),
    ]
    for info, shown in told:
        backend.set_state("fake-1", info)
        poll(context)
        found = row(context)
        assert (found.status, found.waiting_for) == ("RUNNING", shown)


def test_many_jobs_cost_one_status_call(context: Context, backend: FakeBackend) -> None:
    start(context, count=50)
    assert launch(context, 50) == 50
    backend.status_calls = 0
    poll(context)
    assert backend.status_calls == 1


def test_out_of_memory_gets_more_memory_up_to_the_cap(context: Context, backend: FakeBackend) -> None:
    start(context, SPEC)
    for number, memory in ((1, 2), (2, 4), (3, 6)):
        launch(context)
        assert backend.jobs[f"fake-{number}"].request.resource_requirements.memory_gb == memory
        end(backend, f"fake-{number}", reason=FailureReason.OUT_OF_MEMORY, exit_code=137)
        poll(context)
    found = row(context)
    assert (found.status, found.reason, found.attempt) == ("FAILED", "out_of_memory", 3)
    assert [(a.number, a.reason, a.resources["memory_gb"]) for a in attempts(context)] == [
        (1, "out_of_memory", 2), (2, "out_of_memory", 4), (3, "out_of_memory", 6),
    ]  # fmt: skip
    texts = [attempt.reason_text for attempt in attempts(context)]
    assert texts[0].endswith("(next: attempt 2 of 3 at once with 4 GB instead of 2 GB)")
    assert texts[1].endswith("(next: attempt 3 of 3 at once with 6 GB instead of 4 GB)")
    assert texts[2].endswith("(no further attempt: this was attempt 3 of 3)")


def test_at_the_cap_no_further_attempt_is_made(context: Context, backend: FakeBackend) -> None:
    (step,) = SPEC["steps"]
    for reason, caps, limit in (
        (FailureReason.OUT_OF_MEMORY, {"memory_cap_gb": 2}, "more memory than 2 GB"),
        (FailureReason.TIME_LIMIT, {"time_cap_hours": 1}, "more time than 1 h"),
    ):
        spec = {**SPEC, "steps": [{**step, "retry": {"max_attempts": 3, **caps}}]}
        [run_id] = start(context, spec)
        launch(context)
        end(backend, list(backend.jobs)[-1], reason=reason)
        poll(context)
        [found] = [each for each in rows(context) if each.run_id == run_id]
        assert (found.status, found.attempt) == ("FAILED", 1)
        assert f"no further attempt: {limit}" in found.reason_text


def test_time_limit_gets_more_time(context: Context, backend: FakeBackend) -> None:
    start(context, SPEC)
    launch(context)
    end(backend, "fake-1", reason=FailureReason.TIME_LIMIT)
    poll(context)
    assert row(context).waiting_for.endswith("attempt 2 of 3 at once with 3 h instead of 1 h after time_limit")
    assert attempts(context)[0].reason_text.endswith("(next: attempt 2 of 3 at once with 3 h instead of 1 h)")
    launch(context)
    assert backend.jobs["fake-2"].request.resource_requirements.time_hours == 3


def test_a_user_error_is_not_retried(context: Context, backend: FakeBackend) -> None:
    start(context, SPEC)
    launch(context)
    end(backend, "fake-1", exit_code=3)
    poll(context)
    found = row(context)
    assert (found.status, found.reason, found.exit_code) == ("FAILED", "program_failed", 3)
    assert "exit code 3" in found.reason_text


@pytest.mark.parametrize("error", [BackendUnavailable("slurmctld is down"), BackendConfused("not JSON: <html>")])
def test_an_unavailable_backend_changes_nothing_and_is_recorded(
    context: Context, backend: FakeBackend, error: BackendUnavailable
) -> None:
    start(context, SPEC)
    launch(context)
    backend.status_error = error
    poll(context)
    assert row(context).status == "SUBMITTED"
    assert backend_problem(context) == error.message


def test_a_job_stopped_outside_is_failed(context: Context, backend: FakeBackend) -> None:
    start(context, SPEC)
    launch(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.CANCELLED, message="CANCELLED by 1000"))
    poll(context)
    found = row(context)
    assert (found.status, found.reason) == ("FAILED", "stopped_outside")
    assert "1000" in found.reason_text
