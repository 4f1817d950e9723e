"""The status that follows from each answer of AWS Batch. The texts are from documentation and reports of users."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.aws_batch.request import CANCEL_REASON
from ccat_workflow_manager.hpc.aws_batch.status import DescribedJob, Evidence, parse_job, resolve_status
from ccat_workflow_manager.hpc.batch.status import RECORD_SECONDS
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
OK = HPCJobInfo(JobStatus.COMPLETED, exit_code=0, wall_time_seconds=5, cpu_hours=0.1, peak_memory_gb=1)
FAILED = HPCJobInfo(JobStatus.FAILED, exit_code=3, reason=FailureReason.PROGRAM_FAILED)
KILLED = HPCJobInfo(JobStatus.FAILED, exit_code=137, signal=9, reason=FailureReason.KILLED_BY_SIGNAL)
TERMED = HPCJobInfo(JobStatus.FAILED, exit_code=143, signal=15, reason=FailureReason.KILLED_BY_SIGNAL)

R = FailureReason
EXITED = "Essential container in task exited"
OOM = "OutOfMemoryError: Container killed due to memory usage"
TIMEOUT = "Job attempt duration exceeded timeout"
HOST = "Host EC2 (instance i-08784105ffff56b4f) terminated."


def seen(status: str, reason: str = "", container: str = "", **more: Any) -> DescribedJob:
    times = {"created_at": LONG_AGO, "started_at": LONG_AGO, "stopped_at": LONG_AGO}
    return DescribedJob("id", "name", status, reason, container, **{**times, **more})


ENDS: list[tuple[str, DescribedJob, HPCJobInfo | None, JobStatus, FailureReason | None]] = [
    ("success", seen("SUCCEEDED", EXITED, exit_code=0), OK, JobStatus.COMPLETED, None),
    ("success without a record", seen("SUCCEEDED", EXITED, exit_code=0), None, JobStatus.COMPLETED, None),
    ("program", seen("FAILED", EXITED, exit_code=3), FAILED, JobStatus.FAILED, R.PROGRAM_FAILED),
    ("signal", seen("FAILED", EXITED, exit_code=137), KILLED, JobStatus.FAILED, R.KILLED_BY_SIGNAL),
    ("memory", seen("FAILED", EXITED, OOM, exit_code=137), KILLED, JobStatus.FAILED, R.OUT_OF_MEMORY),
    ("memory, no record", seen("FAILED", EXITED, OOM, exit_code=137), None, JobStatus.FAILED, R.OUT_OF_MEMORY),
    ("memory of a child", seen("FAILED", EXITED, OOM, exit_code=3), FAILED, JobStatus.FAILED, R.OUT_OF_MEMORY),
    ("time", seen("FAILED", TIMEOUT), TERMED, JobStatus.FAILED, R.TIME_LIMIT),
    ("time, a program that ends with 0", seen("FAILED", TIMEOUT), OK, JobStatus.FAILED, R.TIME_LIMIT),
    ("spot", seen("FAILED", HOST), None, JobStatus.FAILED, R.PREEMPTED),
    ("spot, old words", seen("FAILED", "Host EC2 Terminated"), TERMED, JobStatus.FAILED, R.PREEMPTED),
    (
        "no such image",
        seen("FAILED", "Task failed to start", "CannotPullContainerError: manifest for x:1 not found"),
        None,
        JobStatus.FAILED,
        R.IMAGE_MISSING,
    ),
    (
        "registry away",
        seen("FAILED", "Task failed to start", "CannotPullContainerError: context canceled"),
        None,
        JobStatus.FAILED,
        R.IMAGE_PULL,
    ),
    (
        "container",
        seen("FAILED", "Task failed to start", "CannotStartContainerError: Error response from daemon"),
        None,
        JobStatus.FAILED,
        R.CONTAINER_FAILED,
    ),
    (
        "resources of the task",
        seen("FAILED", "ResourceInitializationError: failed to invoke EFS utils commands"),
        None,
        JobStatus.FAILED,
        R.CONTAINER_FAILED,
    ),
    (
        "disk",
        seen("FAILED", "Task failed", "write /x: no space left on device"),
        None,
        JobStatus.FAILED,
        R.DISK_FULL,
    ),
    ("dependency", seen("FAILED", "Dependent Job failed"), None, JobStatus.FAILED, R.BACKEND_FAILED),
    (
        "the queue's own limit",
        seen("FAILED", "Canceled by JobStateTimeLimitAction due to reason: CAPACITY", stopped_by_request=True),
        None,
        JobStatus.FAILED,
        R.BACKEND_FAILED,
    ),
    ("cancelled by us", seen("FAILED", CANCEL_REASON), TERMED, JobStatus.CANCELLED, None),
    ("cancelled by us, ended with 0", seen("FAILED", CANCEL_REASON), OK, JobStatus.CANCELLED, None),
    ("by others", seen("FAILED", "the console", stopped_by_request=True), TERMED, JobStatus.CANCELLED, None),
    ("asked too late", seen("FAILED", EXITED, stopped_by_request=True), FAILED, JobStatus.FAILED, R.PROGRAM_FAILED),
    ("by others, not marked as such", seen("FAILED", "the console"), TERMED, JobStatus.FAILED, R.KILLED_BY_SIGNAL),
    ("killed without a record", seen("FAILED", EXITED, exit_code=137), None, JobStatus.FAILED, R.KILLED_BY_SIGNAL),
    ("unexplained", seen("FAILED", EXITED, exit_code=64), None, JobStatus.FAILED, R.BACKEND_FAILED),
    ("nothing known", seen("FAILED"), None, JobStatus.FAILED, R.BACKEND_FAILED),
    ("success, though AWS knows no exit code", seen("FAILED", EXITED), OK, JobStatus.COMPLETED, None),
]


@pytest.mark.parametrize(("what", "job", "record", "status", "reason"), ENDS, ids=[case[0] for case in ENDS])
def test_ends(
    what: str, job: DescribedJob, record: HPCJobInfo | None, status: JobStatus, reason: FailureReason | None
) -> None:
    info = resolve_status(Evidence(job, record, NOW))
    assert (info.status, info.reason) == (status, reason), what
    if record is not None:
        assert (info.cpu_hours, info.peak_memory_gb) == (record.cpu_hours, record.peak_memory_gb) or reason is None


WAITS = [
    ("SUBMITTED", "", "submitted to AWS Batch", False),
    ("PENDING", "", "pending at AWS Batch", False),
    ("RUNNABLE", "", "waits at AWS Batch for a machine", False),
    ("STARTING", "", "its image is fetched", False),
    ("RUNNABLE", "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no", "AWS has no instances", False),
    ("RUNNABLE", "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - no", "no instance type", True),
    ("RUNNABLE", "MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS - no", "service role", True),
    ("RUNNABLE", "an unknown text", "an unknown text", False),
    ("DREAMING", "", "AWS Batch says DREAMING", False),
]


@pytest.mark.parametrize(("status", "why", "words", "attention"), WAITS, ids=[f"{s}-{w[:30]}" for s, w, *_ in WAITS])
def test_waits(status: str, why: str, words: str, attention: bool) -> None:
    info = resolve_status(Evidence(seen(status, why, stopped_at=None, started_at=None), None, NOW))
    assert (info.status, info.attention) == (JobStatus.PENDING, attention)
    assert words in str(info.message)


def test_running() -> None:
    info = resolve_status(Evidence(seen("RUNNING", stopped_at=None), None, NOW))
    assert (info.status, info.started_at) == (JobStatus.RUNNING, LONG_AGO)


def test_silence() -> None:
    assert resolve_status(Evidence(None, None, NOW)).status is JobStatus.UNKNOWN
    assert resolve_status(Evidence(None, OK, NOW)) == OK
    assert resolve_status(Evidence(None, None, NOW, handed_over_recently=True)).status is JobStatus.PENDING


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED"])
def test_a_record_that_is_late(status: str) -> None:
    """A network filesystem may show it later than AWS Batch the end."""
    job = seen(status, EXITED, exit_code=0, stopped_at=NOW - timedelta(seconds=RECORD_SECONDS - 1))
    assert resolve_status(Evidence(job, None, NOW)).status is JobStatus.RUNNING
    assert resolve_status(Evidence(job, OK, NOW)).status is JobStatus.COMPLETED
    assert resolve_status(Evidence(job, None, NOW, records_expected=False)).finished
    assert resolve_status(Evidence(replace(job, stopped_at=LONG_AGO), None, NOW)).finished


def test_the_numbers_of_a_job_without_a_record() -> None:
    job = seen("SUCCEEDED", EXITED, exit_code=0, started_at=LONG_AGO - timedelta(seconds=90))
    info = resolve_status(Evidence(job, None, NOW))
    assert (info.wall_time_seconds, info.finished_at) == (90, LONG_AGO)


def test_reading_a_job() -> None:
    """The details of a job, and what a listing shows of it; of several attempts the last counts."""
    detail = {
        "jobId": "i", "jobName": "n", "status": "FAILED", "createdAt": 1000, "startedAt": 2000, "stoppedAt": 3000,
        "attempts": [{"container": {"exitCode": 1}}, {"container": {"exitCode": 137, "reason": OOM}}],
        "container": {"logStreamName": "s"}, "arrayProperties": {"statusSummary": {"RUNNING": 2}}, "isTerminated": True,
    }  # fmt: skip
    job = parse_job(detail)
    assert (job.exit_code, job.container_reason, job.log_stream) == (137, OOM, "s")
    assert job.children == {"RUNNING": 2}
    assert job.stopped_by_request
    assert job.stopped_at == datetime.fromtimestamp(3, UTC)
    assert parse_job({"jobId": "i:3", "jobName": "n", "status": "RUNNING", "startedAt": 0}).started_at is None


@pytest.mark.parametrize("data", [{}, {"jobId": "x"}, {"jobId": "x", "jobName": "n", "status": "x", "attempts": [5]}])
def test_a_job_that_cannot_be_read(data: dict[str, Any]) -> None:
    with pytest.raises(BackendConfused, match="a job without"):
        parse_job(data)
