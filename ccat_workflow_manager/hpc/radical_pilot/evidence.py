"""From what is written down about a job to what is said about it. The newest positive evidence counts:

    exit record              how the program ended
    `.stopped` says `over`   no process is left, and the job script was killed before it could write
    `.end`                   RADICAL-Pilot says that its task is over
    `.claim`                 it was started: it runs as long as its pilot is looked after; after that nothing is known
    none of these            it waits, and if its pilot is gone, another can have it

Pure but for the clock that is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from signal import SIGKILL, SIGTERM

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.hpc.radical_pilot.store import NOBODY, Claim, End
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

SETTLE_SECONDS = 10.0
"""A shared filesystem may show an exit record later than RADICAL-Pilot tells the end."""

AROUND_THE_END_SECONDS = 60.0
"""A job that is killed this close to the end of its pilot, or later, was killed with it."""

_REASONS = {
    "time_limit": FailureReason.TIME_LIMIT,
    "pilot": FailureReason.BACKEND_FAILED,
}
_PILOT_ENDED = "its pilot ended while it ran"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known about one job."""

    record: str | None = None
    stopped: str | None = None
    """Why its keeper stopped it: `cancel`, `time_limit` or `pilot`."""
    over: bool = False
    end: End | None = None
    claim: Claim | None = None
    cancelled_at: float | None = None
    pilot_alive: bool = True
    pilot_text: str = ""
    pilot_until: float = 0.0
    """When the time of the pilot is over, or when it ended; 0: not known."""


def judged(seen: Evidence, now: float) -> HPCJobInfo | None:
    """The state of a job; None if it waits for a pilot that is gone."""
    if seen.record is not None:
        return _recorded(seen, seen.record)
    if seen.claim is not None and seen.claim.pilot == NOBODY:
        return _cancelled(seen.cancelled_at)
    if seen.over:
        return _ended(seen, "it was killed with the script that was to write down how it ended")
    if seen.end is not None and (seen.claim is None or now - seen.end.at > SETTLE_SECONDS):
        if seen.end.refused:
            return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.REJECTED, message=seen.end.text)
        return _ended(seen, seen.end.text)
    if seen.claim is None:
        return HPCJobInfo(JobStatus.PENDING, message=seen.pilot_text) if seen.pilot_alive else None
    if seen.pilot_alive and seen.claim.pilot:
        return HPCJobInfo(JobStatus.RUNNING, started_at=_time(seen.claim.at), node=seen.claim.node)
    if not seen.claim.pilot:
        return HPCJobInfo(JobStatus.PENDING, message="it is being started")
    return UNKNOWN


def _recorded(seen: Evidence, text: str) -> HPCJobInfo:
    info = info_of(text, seen.cancelled_at)
    if seen.stopped == "cancel":
        return replace(info, status=JobStatus.CANCELLED, reason=FailureReason.CANCELLED)
    stopped = seen.stopped or ("pilot" if _killed_with_its_pilot(seen, info) else "")
    reason = _REASONS.get(stopped)
    if reason is None or _unreadable(text) or info.status is JobStatus.CANCELLED:
        return info
    message = _PILOT_ENDED if stopped == "pilot" else None
    return replace(info, status=JobStatus.FAILED, reason=reason, message=message)


def _killed_with_its_pilot(seen: Evidence, info: HPCJobInfo) -> bool:
    """A batch system that ends an allocation signals every process in it, keepers as well."""
    if info.signal not in (SIGTERM, SIGKILL) or info.finished_at is None or not seen.pilot_until:
        return False
    return info.finished_at.timestamp() >= seen.pilot_until - AROUND_THE_END_SECONDS


def _ended(seen: Evidence, text: str) -> HPCJobInfo:
    """Over without a record."""
    if seen.stopped == "cancel" or seen.cancelled_at is not None:
        return _cancelled(seen.cancelled_at)
    if seen.stopped in _REASONS:
        words = _PILOT_ENDED if seen.stopped == "pilot" else None
        return HPCJobInfo(JobStatus.FAILED, reason=_REASONS[seen.stopped], message=words)
    reason = FailureReason.EXIT_RECORD_MISSING if seen.pilot_alive else FailureReason.BACKEND_FAILED
    return HPCJobInfo(JobStatus.FAILED, reason=reason, message=text if seen.pilot_alive else _PILOT_ENDED)


def _cancelled(at: float | None) -> HPCJobInfo:
    finished = _time(at) if at is not None else None
    return HPCJobInfo(JobStatus.CANCELLED, reason=FailureReason.CANCELLED, finished_at=finished)


def _unreadable(text: str) -> bool:
    try:
        parse_exit_record(text)
    except ValueError:
        return True
    return False


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
