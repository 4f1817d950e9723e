"""What the status of a job at every batch scheduler has in common. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

RECORD_SECONDS = 10
"""How long a failure waits for its exit record, which a network filesystem may show late."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """The status that a state of a scheduler stands for."""

    status: JobStatus
    reason: FailureReason | None = None
    text: str = ""
    held: bool = False


class Listed(Protocol):
    """A job as a scheduler lists it."""

    @property
    def submitted_at(self) -> datetime | None: ...
    @property
    def started_at(self) -> datetime | None: ...
    @property
    def node(self) -> str | None: ...


def running(job: Listed, text: str = "") -> HPCJobInfo:
    return HPCJobInfo(
        JobStatus.RUNNING,
        message=text or None,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        node=job.node,
    )


def waiting(job: Listed, site: str, words: str, *, held: bool, hopeless: bool) -> HPCJobInfo:
    """A job in the queue of `site`. `hopeless`: it waits until a person changes it or the cluster."""
    where = f"held at {site} until a person releases it" if held else f"queued at {site}"
    message = f"{where}: {words}" if words else where
    return HPCJobInfo(JobStatus.PENDING, message=message, attention=held or hopeless, submitted_at=job.submitted_at)


def failed(record: HPCJobInfo | None, **found: Any) -> HPCJobInfo:
    """A failure with the numbers of the record, but not its reason."""
    known = record or HPCJobInfo(JobStatus.FAILED)
    return replace(known, **{"status": JobStatus.FAILED, "reason": None, "message": None, **found})


def is_recent(moment: datetime | None, now: datetime, seconds: float = RECORD_SECONDS) -> bool:
    return moment is not None and 0 <= (now - moment).total_seconds() < seconds


def last_words(log: str) -> str:
    """The end of the log of a scheduler, on one line."""
    return " ".join(log.split())[-300:]


def with_numbers(
    info: HPCJobInfo,
    record: HPCJobInfo | None,
    *,
    wall: float | None,
    cpu_seconds: float | None = None,
    peak_bytes: int | None = None,
    sampled_seconds: float = 0,
    **times: Any,
) -> HPCJobInfo:
    """Add the numbers of the record, those of the scheduler where the record has none, and the larger peak of memory.

    A job that ran for less than `sampled_seconds` was sampled too seldom for a maximum.
    """
    cpu_hours = peak = None
    if record is not None:
        wall = record.wall_time_seconds if record.wall_time_seconds is not None else wall
        cpu_hours, peak = record.cpu_hours, record.peak_memory_gb
    if cpu_hours is None and cpu_seconds is not None:
        cpu_hours = cpu_seconds / 3600
    if peak_bytes and wall is not None and wall >= sampled_seconds:
        peak = max(peak or 0.0, peak_bytes / GIB)
    return replace(info, wall_time_seconds=wall, cpu_hours=cpu_hours, peak_memory_gb=peak, **times)
