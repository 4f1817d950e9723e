"""The state of a job in a pilot, from its files and the state of its pilot. Pure.

The exit record decides. The claim names the pilot that started the job, and its heartbeat shows that the job process
lives. RADICAL-Pilot is believed only about tasks that left no record.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from signal import SIGKILL, SIGTERM

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import Claim
from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.exit_info import cancelled, info_of
from ccat_workflow_manager.hpc.radical_pilot.job import TaskEnd
from ccat_workflow_manager.hpc.radical_pilot.pilot import PilotState
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

AROUND_THE_END_SECONDS = 60.0
"""A job that is killed this close to the end of its pilot, or later, was killed with it."""
_PILOT_ENDED = "its pilot ended while it ran"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one job."""

    now: float
    record: str | None = None
    claim: Claim | None = None
    end: TaskEnd | None = None
    pilot_alive: bool = True
    pilot: PilotState = field(default_factory=PilotState)
    """Of the pilot that claimed the job, or that it was given to."""


def needs_pilot(evidence: Evidence) -> bool:
    """Whether the pilot of a job ended before it started the job."""
    traces = (evidence.record, evidence.claim, evidence.end)
    return not evidence.pilot_alive and all(trace is None for trace in traces)


def resolve_status(evidence: Evidence) -> HPCJobInfo:
    claim, end = evidence.claim, evidence.end
    if evidence.record is not None:
        return _recorded(evidence.record, evidence.pilot.until)
    if claim is not None and claim.blocked is not None:
        return cancelled(claim.at)
    lives = claim is not None and claim.alive(evidence.now)
    if end is not None and not lives:
        # The job process would have touched its claim, and a shared filesystem has shown the record by now.
        return _ended(end, evidence.pilot_alive)
    if claim is None:
        return HPCJobInfo(JobStatus.PENDING, message=evidence.pilot.text)
    if lives or evidence.pilot_alive:
        return HPCJobInfo(JobStatus.RUNNING, started_at=utc(claim.at), node=claim.host or None)
    return UNKNOWN


def _recorded(text: str, pilot_until: float) -> HPCJobInfo:
    info = info_of(text, None)
    if info.reason is FailureReason.NODE_FAILURE:
        # The job process stopped the job because its pilot was gone.
        return replace(info, reason=FailureReason.BACKEND_FAILED)
    if _killed_with_its_pilot(info, pilot_until):
        return replace(info, reason=FailureReason.BACKEND_FAILED, message=_PILOT_ENDED)
    return info


def _killed_with_its_pilot(info: HPCJobInfo, pilot_until: float) -> bool:
    """A batch system that ends an allocation signals every process in it, and may hit the program first."""
    if info.reason is not FailureReason.KILLED_BY_SIGNAL or info.finished_at is None or not pilot_until:
        return False
    at_the_end = info.finished_at.timestamp() >= pilot_until - AROUND_THE_END_SECONDS
    return at_the_end and info.signal in (SIGTERM, SIGKILL)


def _ended(end: TaskEnd, pilot_alive: bool) -> HPCJobInfo:
    if end.refused:
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.REJECTED, message=end.text)
    if not pilot_alive:
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.BACKEND_FAILED, message=_PILOT_ENDED)
    return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.EXIT_RECORD_MISSING, message=end.text)
