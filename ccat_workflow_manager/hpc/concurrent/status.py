"""The state of a job in the pool, resolved from all evidence by one pure function."""

from __future__ import annotations

from dataclasses import dataclass

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import CANCELLED, Claim
from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.exit_info import cancelled, info_of
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a job that has a ticket."""

    claim: Claim | None = None
    record: str | None = None
    """The text of the exit record."""
    cancelled_at: float | None = None
    here: bool = True
    """The worker ran, or runs, on this host since the host was started."""
    watched: bool = False
    """The process that claimed the job still runs."""
    alive: bool = False
    """A process of the job still runs."""
    started: bool = False
    """The first process of the job is known."""
    abandoned: str | None = None
    node: str | None = None


def resolve_status(evidence: Evidence) -> HPCJobInfo:
    claim, cancelled_at = evidence.claim, evidence.cancelled_at
    if claim is None:
        # On another host it may still wait.
        waiting = HPCJobInfo(JobStatus.PENDING, message="all slots of the pool are in use")
        return waiting if evidence.here else UNKNOWN
    if claim.blocked == CANCELLED:
        return cancelled(claim.at)
    if claim.blocked is not None:
        reason = FailureReason.NODE_FAILURE
        return HPCJobInfo(JobStatus.FAILED, reason=reason, message=claim.blocked, finished_at=utc(claim.at))
    if evidence.record is not None:
        return info_of(evidence.record, cancelled_at)
    if evidence.abandoned is not None:
        reason = FailureReason.BACKEND_FAILED
        return HPCJobInfo(JobStatus.FAILED, reason=reason, message=evidence.abandoned, finished_at=utc(claim.touched))
    if evidence.watched and not evidence.started:
        return HPCJobInfo(JobStatus.PENDING, message="it is being started")
    if evidence.watched or evidence.alive:
        return HPCJobInfo(JobStatus.RUNNING, started_at=utc(claim.at), node=evidence.node)
    return cancelled(cancelled_at) if cancelled_at is not None and evidence.here else UNKNOWN
