"""Live step runs are compared with the records of the scheduler: each contradiction is found, and only those."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.verify import Finding
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import job_name
from ccat_workflow_manager.services.verify_jobs import JobVerification
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.step_runs import launch, poll, row, start

RUNNING = HPCJobInfo(JobStatus.RUNNING)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def step_run(context: Context, backend: FakeBackend) -> UUID:
    """One step run, whose job `fake-1` runs."""
    start(context)
    assert launch(context) == 1
    backend.set_state("fake-1", RUNNING)
    poll(context)
    found: UUID = row(context).id
    return found


def verification(context: Context, settle_seconds: float = 0) -> JobVerification:
    return JobVerification(context.database, context.doorbell, context.backend_handle, settle_seconds)


def found(context: Context, settle_seconds: float = 0) -> list[Finding]:
    return list(verification(context, settle_seconds).findings())


def test_healthy_jobs_give_no_finding_and_cost_one_listing(
    context: Context, backend: FakeBackend, step_run: UUID
) -> None:
    before = backend.status_calls
    assert found(context) == []
    assert backend.status_calls == before


def test_a_second_live_job_of_an_attempt_is_named(context: Context, backend: FakeBackend, step_run: UUID) -> None:
    backend.set_state(backend.accept(JobRequest(job_name=job_name(step_run, 1))), RUNNING)
    [finding] = found(context)
    assert (finding.kind, finding.subject) == ("job", f"step-runs/{step_run}")
    assert "fake-1, fake-2" in finding.text
    assert finding.repair.endswith("fake-2")


def test_another_job_than_the_recorded_one_is_named(context: Context, backend: FakeBackend, step_run: UUID) -> None:
    backend.drop("fake-1")
    backend.set_state(backend.accept(JobRequest(job_name=job_name(step_run, 1))), RUNNING)
    [finding] = found(context)
    assert "fake-2" in finding.text
    assert "fake-1" in finding.text


def test_a_live_job_of_an_attempt_that_is_over_is_named(context: Context, backend: FakeBackend, step_run: UUID) -> None:
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    poll(context)
    backend.set_state("fake-1", RUNNING)
    with context.database.begin() as unit:
        unit.execute("INSERT INTO backends (name) VALUES ('noop') ON CONFLICT DO NOTHING")
    [finding] = found(context)
    assert "fake-1 lives" in finding.text
    assert found(context, settle_seconds=3600) == []


def test_a_job_that_its_scheduler_does_not_know_is_named(
    context: Context, backend: FakeBackend, step_run: UUID
) -> None:
    backend.drop("fake-1")
    [finding] = found(context)
    assert "fake-1 is not known" in finding.text
    assert found(context, settle_seconds=3600) == []


def test_an_end_that_the_service_has_not_recorded_for_long_is_named(
    context: Context, backend: FakeBackend, step_run: UUID
) -> None:
    ended = HPCJobInfo(JobStatus.FAILED, exit_code=1, finished_at=datetime.now(UTC))
    backend.set_state("fake-1", ended)
    assert found(context, settle_seconds=60) == []
    backend.set_state("fake-1", replace(ended, finished_at=LONG_AGO))
    [finding] = found(context, settle_seconds=60)
    assert "RUNNING; its job fake-1 is failed" in finding.text


def test_a_job_of_another_deployment_is_none_of_ours(context: Context, backend: FakeBackend, step_run: UUID) -> None:
    for _ in range(2):
        backend.set_state(backend.accept(JobRequest(job_name=job_name(UUID(int=7), 1))), RUNNING)
    assert found(context) == []


def test_a_worker_of_the_backend_answers(context: Context, backend: FakeBackend, step_run: UUID) -> None:
    backend.drop("fake-1")
    with context.database.begin() as unit:
        WorkerStore(unit).register("other:1:x", "other", 1, ["noop"])
    check = verification(context)

    def asked(name: str, question: dict[str, object], timeout: float) -> object:
        return context.answer(question)

    context.doorbell.ask = asked  # type: ignore[method-assign, assignment]
    [finding] = list(check.findings())
    assert "fake-1 is not known" in finding.text
    backend.status_error = BackendUnavailable("slurmctld is away", backend="noop")
    assert list(check.findings()) == []
    assert check.unchecked == {"noop": "slurmctld is away"}


def test_a_backend_that_this_host_cannot_ask_is_said(context: Context, step_run: UUID) -> None:
    check = JobVerification(context.database, context.doorbell, lambda name: None, 0)
    assert list(check.findings()) == []
    assert "no worker" in check.unchecked["noop"]
