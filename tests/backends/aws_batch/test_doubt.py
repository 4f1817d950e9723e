"""When AWS is slow, away, or its answer is lost: no job is lost, and none is submitted twice."""

from __future__ import annotations

import time
from pathlib import Path
from unittest import mock

import pytest

from ccat_workflow_manager.errors import BackendUnavailable, JobDeferred
from ccat_workflow_manager.hpc.aws_batch import client
from ccat_workflow_manager.hpc.batch import scheduler_backend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from tests.backends.aws_batch.conftest import JobsWith
from tests.backends.aws_batch.harness import SH, AwsBatchHarness
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.waiting import wait_for


@pytest.mark.parametrize("fault", ["hang_up", "fail_after"])
def test_an_answer_that_is_lost(jobs: AwsBatchHarness, aws_batch: StandIn, fault: str) -> None:
    """The job was taken; it is found by its name."""
    aws_batch.faults.only = "SubmitJob"
    setattr(aws_batch.faults, fault, 1)
    job = jobs.submit("true")
    jobs.until(job, JobStatus.COMPLETED)
    assert jobs.named(job.request.job_name) == 1


def test_a_lost_answer_for_a_job_that_is_not_shown_yet(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """Nothing is submitted again before it is certain that the first is not there."""
    request = jobs.request("true")
    aws_batch.faults.only, aws_batch.faults.hang_up = "SubmitJob", 1
    aws_batch.operations.lag_ms, aws_batch.site.held = 1_000_000, True
    with pytest.raises(JobDeferred, match="looked for again"):
        jobs.submit_request(request)
    with pytest.raises(JobDeferred, match="not known yet"):
        jobs.submit_request(request)
    with pytest.raises(JobDeferred, match="not known yet"):
        jobs.backend.find(request.job_name)
    aws_batch.operations.lag_ms, aws_batch.site.held = 0, False
    job = jobs.submit_request(request)
    assert jobs.named(request.job_name) == 1
    jobs.until(job, JobStatus.COMPLETED)


def test_a_failure_that_did_nothing(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """After the time within which it would have shown, the job is submitted again."""
    request = jobs.request("true")
    aws_batch.faults.only, aws_batch.faults.fail = "SubmitJob", 1
    with (
        mock.patch.object(scheduler_backend, "SETTLE_SECONDS", 0.0),
        pytest.raises(JobDeferred, match="looked for again"),
    ):
        jobs.submit_request(request)
    wait_for(lambda: jobs.backend.find(request.job_name) is None, 30)
    jobs.until(jobs.submit_request(request), JobStatus.COMPLETED)
    assert jobs.named(request.job_name) == 1


def test_a_job_that_is_not_shown_yet_is_not_unknown(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    aws_batch.operations.lag_ms, aws_batch.site.held = 1_000_000, True
    job = jobs.submit("true")
    info = jobs.backend.get_status(job.id)
    assert (info.status, "does not show it yet" in str(info.message)) == (JobStatus.PENDING, True)
    aws_batch.operations.lag_ms, aws_batch.site.held = 0, False
    jobs.until(job, JobStatus.COMPLETED)


def test_two_jobs_of_one_name_run_the_command_once(jobs: AwsBatchHarness) -> None:
    """The second finds the attempt claimed."""
    started = jobs.workdir / "started"
    job = jobs.submit(*SH, f"echo >> '{started}'")
    jobs.until(job, JobStatus.COMPLETED)
    assert jobs.run_twin(job) == 75
    assert len(started.read_text()) == 1
    assert jobs.create().find(job.request.job_name) == job.id


def test_throttled_calls_are_repeated_and_counted(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    aws_batch.faults.throttle = 2
    aws_batch.faults.only = "SubmitJob"
    with mock.patch.object(client, "_FIRST_PAUSE_SECONDS", 0.01):
        job = jobs.submit("true")
    assert jobs.named(job.request.job_name) == 1
    aws_batch.faults.throttle, aws_batch.faults.only = 1, "DescribeJobs"
    jobs.until(job, JobStatus.COMPLETED)
    (queue,) = jobs.backend.queue_status()
    assert queue.available
    assert queue.details["calls_sent_back_in_the_last_minute"] == 3
    assert queue.details["calls_in_the_last_minute"] >= 5


def test_throttling_without_end(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    """A job that was sent back was not submitted, so it need not be looked for."""
    aws_batch.faults.throttle, aws_batch.faults.only = 1_000, "SubmitJob"
    request = jobs.request("true")
    with mock.patch.object(client, "_FIRST_PAUSE_SECONDS", 0.01):
        with pytest.raises(BackendUnavailable, match="TooManyRequests"):
            jobs.submit_request(request)
        aws_batch.faults.throttle = 0
        jobs.until(jobs.submit_request(request), JobStatus.COMPLETED)


def test_a_missing_permission_does_not_reject_the_job(jobs: AwsBatchHarness, aws_batch: StandIn) -> None:
    aws_batch.faults.denied = True
    for call in (lambda: jobs.submit("true"), jobs.backend.list_jobs):
        with pytest.raises(BackendUnavailable, match="not authorized"):
            call()


def test_the_budget_of_calls(jobs_with: JobsWith, tmp_path: Path) -> None:
    """It is one for all processes, and a part of it is kept for submitting and cancelling."""
    jobs = jobs_with(calls_per_minute=8, state_dir=str(tmp_path / "few"))
    backend = jobs.backend
    job_id = "00000000-0000-0000-0000-000000000000:ccat-none-1"
    began = time.monotonic()
    with jobs.count_calls("DescribeJobs") as calls:
        for _ in range(6):
            assert backend.get_status(job_id).status is JobStatus.UNKNOWN
        with mock.patch("ccat_workflow_manager.hpc.batch.calls._LONGEST_WAIT_SECONDS", 0.1):
            with pytest.raises(BackendUnavailable, match="budget of 8"):
                backend.get_status(job_id)
            with pytest.raises(BackendUnavailable, match="budget of 8"):
                jobs.create().find("x")
        assert calls() == 6 or time.monotonic() - began > 60
    backend.cancel(job_id)
