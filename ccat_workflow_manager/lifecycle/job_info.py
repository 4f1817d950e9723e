"""The state of a job as its backend reports it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ccat_workflow_manager.failures import FailureReason


class JobStatus(StrEnum):
    """The state of a job, the same words for all backends. `unknown` is neither success nor failure."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


JOB_FINISHED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class HPCJobInfo:
    """The state and the metrics of one job as its backend reports them now.

    `status` may be a plain string. All other fields are optional.
    """

    status: JobStatus
    exit_code: int | None = None
    wall_time_seconds: float | None = None
    cpu_hours: float | None = None
    peak_memory_gb: float | None = None
    signal: int | None = None
    reason: FailureReason | None = None
    """Why the job failed, if the backend reports more than the exit code."""
    message: str | None = None
    """In the words of the backend: why the job is pending, or why it failed."""
    attention: bool = False
    """The job waits for an action of an operator."""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    node: str | None = None
    warning: str | None = None
    """What operators should know about the end of the job, failed or not."""
    cpu_hours_allocated: float | None = None
    """What was reserved for the job while it ran, used or not. Sites account this."""
    last_words: str | None = None
    """The last line that the program wrote to stderr."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", JobStatus(self.status))

    @property
    def finished(self) -> bool:
        return self.status in JOB_FINISHED


UNKNOWN = HPCJobInfo(JobStatus.UNKNOWN)
