"""The state of a job, from two witnesses: AWS Batch, whose words are in tables, and the exit record. Pure.

AWS Batch knows whether a job runs, and for some days how it ended. The exit record knows best how the command ended.
A witness that reports nothing proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.record import signal_in
from ccat_workflow_manager.hpc.aws_batch.request import CANCEL_REASON
from ccat_workflow_manager.hpc.batch.status import failed, is_recent, with_numbers
from ccat_workflow_manager.hpc.exit_info import elapsed
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

PENDING: Mapping[str, str] = {
    "SUBMITTED": "submitted to AWS Batch",
    "PENDING": "pending at AWS Batch",
    "RUNNABLE": "waits at AWS Batch for a machine",
    "STARTING": "starting at AWS Batch: its image is fetched",
}
STARTED = frozenset({"STARTING", "RUNNING"})
OVER = frozenset({"SUCCEEDED", "FAILED"})
STATES = frozenset({*PENDING, "RUNNING", *OVER})

WAITS: Mapping[str, str] = {
    "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY": "AWS has no instances of the kinds that the queue may use now",
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE": "it asks for more cores than the compute environments have",
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT": "no instance type of the compute environments has what it asks for",
    "MISCONFIGURATION:EC2_INSTANCE_CONFIGURATION_UNSUPPORTED": "the compute environments name instances AWS has not",
    "MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS": "the service role of the compute environments lacks permissions",
    "ACTION_REQUIRED": "the compute environments need their administrator",
}
"""Why a job stays RUNNABLE, as its `statusReason` begins."""

_F = FailureReason
ENDS: tuple[tuple[re.Pattern[str], FailureReason], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (r"job state time ?limit action|JobStateTimeLimitAction", _F.BACKEND_FAILED),
        (r"attempt duration exceeded timeout", _F.TIME_LIMIT),
        (r"OutOfMemoryError|OutOfMemory\b", _F.OUT_OF_MEMORY),
        (r"Cannot\s?Pull\w*(Error)?.*(not found|does not exist|manifest unknown|invalid reference)", _F.IMAGE_MISSING),
        (r"CannotPull\w*|CannotPullECRContainerError|pull image", _F.IMAGE_PULL),
        (r"Host EC2.*terminated|spot interruption|spot instance", _F.PREEMPTED),
        (r"Dependent Job failed", _F.BACKEND_FAILED),
        (r"Cannot(Start|Create|Inspect|Stop)Container\w*|ResourceInitializationError", _F.CONTAINER_FAILED),
        (r"Docker(Timeout|State)Error|ContainerRuntime\w*Error|Task failed to start", _F.CONTAINER_FAILED),
        (r"No space left on device", _F.DISK_FULL),
    )
)
"""Reasons by the `statusReason` of a FAILED job, or the `reason` of its container. The first match counts.

The words are from AWS's documentation and from reports of its users; none was recorded from the service.
"""
ENDED_BY_ITSELF = "Essential container in task exited"
_BEATS_RECORD = frozenset({_F.TIME_LIMIT, _F.OUT_OF_MEMORY, _F.PREEMPTED})
"""A command that is ended for one of these leaves a record that only knows of the signal."""


@dataclass(frozen=True, slots=True)
class DescribedJob:
    """One job as `describe_jobs` or `list_jobs` shows it."""

    job_id: str
    name: str
    status: str
    status_reason: str = ""
    container_reason: str = ""
    exit_code: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    stopped_by_request: bool = False
    """The job was cancelled or terminated, according to AWS Batch."""
    log_stream: str = ""
    children: Mapping[str, int] = field(default_factory=dict)
    """For the parent of an array: the number of its children in each state."""

    @property
    def over(self) -> bool:
        return self.status in OVER


def parse_job(data: Mapping[str, Any]) -> DescribedJob:
    """Parse a JobDetail or a JobSummary, which share their names. Raises BackendConfused."""
    try:
        attempts = data.get("attempts") or [{}]
        container = {**(attempts[-1].get("container") or {}), **(data.get("container") or {})}
        array = data.get("arrayProperties") or {}
        return DescribedJob(
            job_id=str(data["jobId"]),
            name=str(data["jobName"]),
            status=str(data["status"]),
            status_reason=str(data.get("statusReason") or attempts[-1].get("statusReason") or ""),
            container_reason=str(container.get("reason") or ""),
            exit_code=container.get("exitCode"),
            created_at=_time(data.get("createdAt")),
            started_at=_time(data.get("startedAt")),
            stopped_at=_time(data.get("stoppedAt")),
            stopped_by_request=bool(data.get("isTerminated") or data.get("isCancelled")),
            log_stream=str(container.get("logStreamName") or ""),
            children=dict(array.get("statusSummary") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        text = f"the answer of AWS Batch cannot be read: a job without {error}: {str(data)[:200]}"
        raise BackendConfused(text, backend="aws_batch") from error


def _time(milliseconds: object) -> datetime | None:
    if not isinstance(milliseconds, int | float) or not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one job."""

    job: DescribedJob | None
    record: HPCJobInfo | None
    """The status according to the exit record, or why the results of the job cannot be stored."""
    now: datetime
    handed_over_recently: bool = False
    """AWS Batch may not show the job yet."""
    records_expected: bool = True


def resolve_status(evidence: Evidence) -> HPCJobInfo:
    job, record = evidence.job, evidence.record
    if job is None:
        if record is None and evidence.handed_over_recently:
            return HPCJobInfo(JobStatus.PENDING, message="handed to AWS Batch, which does not show it yet")
        return record if record is not None else UNKNOWN
    if not job.over:
        return _alive(job)
    info = _succeeded(job, evidence) if job.status == "SUCCEEDED" else _failed(job, evidence)
    return info if info.status is JobStatus.RUNNING else _measured(info, job, record)


def _alive(job: DescribedJob) -> HPCJobInfo:
    if job.status == "RUNNING":
        return HPCJobInfo(JobStatus.RUNNING, submitted_at=job.created_at, started_at=job.started_at)
    text = PENDING.get(job.status, f"AWS Batch says {job.status}")
    why = job.status_reason or job.container_reason
    known = next((words for code, words in WAITS.items() if why.startswith(code)), "")
    words = ": ".join(each for each in (text, known or why) if each)
    stuck = why.startswith(("MISCONFIGURATION:", "ACTION_REQUIRED"))
    return HPCJobInfo(JobStatus.PENDING, message=words, submitted_at=job.created_at, attention=stuck)


def _succeeded(job: DescribedJob, evidence: Evidence) -> HPCJobInfo:
    if evidence.record is not None:
        return evidence.record
    return _waiting_for_record(job, evidence) or HPCJobInfo(JobStatus.COMPLETED, exit_code=0)


def _failed(job: DescribedJob, evidence: Evidence) -> HPCJobInfo:
    record = evidence.record
    words = "; ".join(dict.fromkeys(each for each in (job.status_reason, job.container_reason) if each)) or None
    if job.status_reason.startswith(CANCEL_REASON):
        return HPCJobInfo(JobStatus.CANCELLED, message=words)
    reason = next((reason for pattern, reason in ENDS if words and pattern.search(words)), None)
    # A request that came after the end of the command has stopped nothing.
    by_itself = record is not None and job.status_reason.startswith(ENDED_BY_ITSELF)
    if reason is None and job.stopped_by_request and not by_itself:
        return HPCJobInfo(JobStatus.CANCELLED, message=f"stopped at AWS Batch: {words}" if words else None)
    if reason is not None and (record is None or reason in _BEATS_RECORD):
        return failed(record, reason=reason, message=words)
    if record is not None:
        return record
    return _waiting_for_record(job, evidence) or _unexplained(job, words)


def _waiting_for_record(job: DescribedJob, evidence: Evidence) -> HPCJobInfo | None:
    """The state of a job whose record may still appear."""
    if evidence.records_expected and job.started_at is not None and is_recent(job.stopped_at, evidence.now):
        return HPCJobInfo(JobStatus.RUNNING, message="over; waiting for its exit record", started_at=job.started_at)
    return None


def _unexplained(job: DescribedJob, words: str | None) -> HPCJobInfo:
    """A failure without a record: the job was killed with its script, or never began."""
    number = signal_in(job.exit_code)
    if number is not None:
        return HPCJobInfo(
            JobStatus.FAILED, exit_code=job.exit_code, signal=number, reason=_F.KILLED_BY_SIGNAL, message=words
        )
    code = "no exit code" if job.exit_code is None else f"exit code {job.exit_code}"
    return HPCJobInfo(JobStatus.FAILED, reason=_F.BACKEND_FAILED, message=f"AWS Batch says {words or code} ({code})")


def _measured(info: HPCJobInfo, job: DescribedJob, record: HPCJobInfo | None) -> HPCJobInfo:
    return with_numbers(
        info,
        record,
        wall=elapsed(job.started_at, job.stopped_at),
        submitted_at=job.created_at,
        started_at=info.started_at or job.started_at,
        finished_at=info.finished_at or job.stopped_at,
    )
