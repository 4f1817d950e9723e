"""The state of a job from three witnesses: its exit record, its claim and the Dask scheduler. Pure.

The record decides. The claim names the Dask worker that started the job, and its heartbeat shows that the job process
lives. Dask alone never proves that a job ended well: its tasks only carry the jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import CANCELLED, Claim
from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.exit_info import cancelled, info_of
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

_WAITS = {
    "released": "on its way to a Dask worker",
    "waiting": "on its way to a Dask worker",
    "processing": "waits on a Dask worker until there is room",
    "queued": "all Dask workers are busy",
    "no-worker": "no Dask worker has what it asks for",
}
_NO_WORKERS = "the Dask scheduler has no workers"
_ENDED_HERE = ("erred", "memory")
STATES = frozenset({*_WAITS, *_ENDED_HERE, "forgotten"})
"""All states of a task at a scheduler."""
RESTARTED = "the Dask scheduler was restarted and has forgotten its tasks"
FORGOTTEN = "the Dask scheduler has dropped the task: a user cancelled it there or restarted the cluster"


@dataclass(frozen=True, slots=True)
class DaskError:
    """Why Dask could not finish a task."""

    text: str
    killed_workers: bool = False
    """Several workers died while they held the task."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the witnesses report. Record and claim are read before the scheduler is asked."""

    record: str | None
    claim: Claim | None
    state: str | None
    """Of the task; None if the scheduler does not know it."""
    same_scheduler: bool
    """The scheduler is the one that the job was submitted to."""
    workers: int
    now: float
    error: DaskError | None = None


def is_forgotten(evidence: Evidence) -> bool:
    """Whether the job will never start by itself; the backend then blocks the attempt."""
    return evidence.record is None and evidence.claim is None and evidence.state in (None, "forgotten")


def resolve_status(evidence: Evidence) -> HPCJobInfo:
    if evidence.record is not None:
        return _recorded(evidence.record, evidence)
    claim = evidence.claim
    if claim is None:
        return _not_started(evidence)
    if claim.blocked is None:
        return _started(claim, evidence)
    if claim.blocked == CANCELLED:
        return cancelled(claim.at)
    reason = FailureReason.STOPPED_OUTSIDE if claim.blocked == FORGOTTEN else FailureReason.BACKEND_FAILED
    return HPCJobInfo(JobStatus.FAILED, reason=reason, message=claim.blocked)


def _recorded(text: str, evidence: Evidence) -> HPCJobInfo:
    info = info_of(text, None)
    if info.reason is not FailureReason.NODE_FAILURE:
        return info
    # The job process wrote the record because its Dask worker had gone.
    if not evidence.same_scheduler:
        return replace(info, reason=FailureReason.BACKEND_FAILED, message=f"{RESTARTED}; {info.message}")
    if evidence.error is not None and evidence.error.killed_workers:
        return replace(info, message=f"{evidence.error.text}; {info.message}")
    return info


def _not_started(evidence: Evidence) -> HPCJobInfo:
    if evidence.state in _WAITS:
        message = _WAITS[evidence.state] if evidence.workers else _NO_WORKERS
        return HPCJobInfo(JobStatus.PENDING, message=message)
    if evidence.state == "erred":
        error = evidence.error or DaskError("Dask gives no reason")
        reason = FailureReason.NODE_FAILURE if error.killed_workers else FailureReason.BACKEND_FAILED
        return HPCJobInfo(JobStatus.FAILED, reason=reason, message=error.text)
    return UNKNOWN


def _started(claim: Claim, evidence: Evidence) -> HPCJobInfo:
    """A started job runs as long as its job process lives, whatever the state of the task."""
    running = HPCJobInfo(JobStatus.RUNNING, started_at=utc(claim.at), node=claim.host)
    if claim.alive(evidence.now) or evidence.state == "processing":
        return running
    lost = f"the Dask worker {claim.owner} on {claim.host} was lost with the job"
    if evidence.state is not None and evidence.state not in ("memory", "forgotten"):
        # Dask has taken the task from the worker that ran it, which happens only when that one is gone.
        words = f"{evidence.error.text}; {lost}" if evidence.error is not None else lost
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE, message=words, node=claim.host)
    if not evidence.same_scheduler:
        text = f"{RESTARTED}; {lost}"
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.BACKEND_FAILED, message=text, node=claim.host)
    return UNKNOWN
