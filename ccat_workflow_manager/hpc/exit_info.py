"""From an exit record to the state of a finished job."""

from __future__ import annotations

from datetime import datetime
from math import inf

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record, utc
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

_STOPPED = {
    "time_limit": FailureReason.TIME_LIMIT,
    "memory_limit": FailureReason.OUT_OF_MEMORY,
    "log_limit": FailureReason.LOG_LIMIT,
    "disk_limit": FailureReason.DISK_LIMIT,
    "carrier_lost": FailureReason.NODE_FAILURE,
}
_KILLED = "a process of the job was killed because it used too much memory, and the program ended with 0 all the same"
_NOT_STARTED = (126, 127)
"""The exit codes of a shell for a program that cannot be executed or does not exist."""


def info_of(text: str, cancelled_at: float | None) -> HPCJobInfo:
    """The state of a job from the text of its exit record; `cancelled_at` is the time of the cancel request."""
    try:
        record = parse_exit_record(text)
    except ValueError as error:
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.EXIT_RECORD_UNREADABLE, message=str(error))
    status, reason = _verdict(record, cancelled_at)
    return HPCJobInfo(
        status,
        exit_code=record.exit_code,
        wall_time_seconds=record.wall_time_seconds,
        cpu_hours=record.cpu_seconds / 3600 if record.cpu_seconds is not None else None,
        peak_memory_gb=record.peak_memory_bytes / GIB if record.peak_memory_bytes is not None else None,
        signal=record.signal,
        reason=reason,
        message=record.stopped_text,
        started_at=record.started_at,
        finished_at=record.finished_at,
        node=record.host,
        warning=_warning(record),
    )


def cancelled(at: float | None = None) -> HPCJobInfo:
    """The state of a job that was cancelled before it started, or left no record."""
    return HPCJobInfo(JobStatus.CANCELLED, reason=FailureReason.CANCELLED, finished_at=None if at is None else utc(at))


def elapsed(started: datetime | None, ended: datetime | None) -> float | None:
    """The seconds between two times, if both are known."""
    return max(0.0, (ended - started).total_seconds()) if started is not None and ended is not None else None


def _warning(record: ExitRecord) -> str | None:
    """What operators should know about the end. A program that lost a child may still have ended with 0."""
    killed = _KILLED if record.oom_killed and record.exit_code == 0 else None
    return "; ".join(filter(None, (killed, record.left_text))) or None


def _verdict(record: ExitRecord, cancelled_at: float | None) -> tuple[JobStatus, FailureReason | None]:
    finished_at = record.finished_at.timestamp() if record.finished_at is not None else inf
    if record.stopped_by == "cancel" or (cancelled_at is not None and finished_at >= cancelled_at):
        return JobStatus.CANCELLED, FailureReason.CANCELLED
    if record.stopped_by in _STOPPED:
        return JobStatus.FAILED, _STOPPED[record.stopped_by]
    if record.exit_code is None:
        return JobStatus.FAILED, FailureReason.BACKEND_FAILED
    if record.exit_code == 0:
        return JobStatus.COMPLETED, None
    if record.oom_killed:
        return JobStatus.FAILED, FailureReason.OUT_OF_MEMORY
    if record.signal is not None:
        return JobStatus.FAILED, FailureReason.KILLED_BY_SIGNAL
    if record.exit_code in _NOT_STARTED:
        return JobStatus.FAILED, FailureReason.COMMAND_NOT_FOUND
    return JobStatus.FAILED, FailureReason.PROGRAM_FAILED
