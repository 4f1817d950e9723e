"""What a backend says about a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ccat_workflow_manager.failures import FailureReason


class JobStatus(StrEnum):
    """The state of a job in one word for all backends; `unknown` is silence, never success and never failure."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


JOB_FINISHED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class HPCJobInfo:
    """The state and the metrics of one job as its backend knows them now.

    `status` may be given as plain text. Everything else is optional: a backend fills in what it knows.
    """

    status: JobStatus
    exit_code: int | None = None
    wall_time_seconds: float | None = None
    cpu_hours: float | None = None
    peak_memory_gb: float | None = None
    signal: int | None = None
    reason: FailureReason | None = None
    """Why the job failed, if the backend knows better than the exit code."""
    message: str | None = None
    """The backend's own words: the pending reason while pending, the cause once failed."""
    attention: bool = False
    """The job waits for something that only a person can do."""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    node: str | None = None
    warning: str | None = None
    """What operators are to know about the end of the job, however it ended."""
    cpu_hours_allocated: float | None = None
    """What was kept for the job while it ran, used or not: what a site counts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", JobStatus(self.status))

    @property
    def finished(self) -> bool:
        return self.status in JOB_FINISHED


UNKNOWN = HPCJobInfo(JobStatus.UNKNOWN)
