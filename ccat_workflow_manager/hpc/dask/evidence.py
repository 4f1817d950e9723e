"""From what is known about a job to its state: one pure function.

Three witnesses: the exit record (the job itself), the claim (who started it, and when it last showed that it lives) and
the Dask scheduler. The record decides. Dask alone never says that a job has ended well: its tasks only carry the jobs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.dask.claims import Claim, What
from ccat_workflow_manager.hpc.exit_info import info_of
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
"""All that a scheduler can say about a task."""
RESTARTED = "the Dask scheduler was restarted and has forgotten its tasks"
FORGOTTEN = "the Dask scheduler has dropped the task: somebody cancelled it there, or restarted the cluster"


@dataclass(frozen=True, slots=True)
class DaskError:
    """Why Dask could not carry a task to its end."""

    text: str
    killed_workers: bool = False
    """Worker after worker died under it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known. The claim was read before the scheduler was asked: what it proves was true by then."""

    record: str | None
    claim: Claim | None
    state: str | None
    """Of the task; None if the scheduler does not know it."""
    same_scheduler: bool
    """It is the one that was given the job."""
    workers: int
    now: float
    error: DaskError | None = None


def forgotten(evidence: Evidence) -> bool:
    """Whether nobody is going to start the job: who finds this takes the claim, and then it is so for ever."""
    return evidence.record is None and evidence.claim is None and evidence.state in (None, "forgotten")


def judge(evidence: Evidence) -> HPCJobInfo:
    """The state of the job."""
    if evidence.record is not None:
        return _recorded(evidence.record, evidence)
    claim = evidence.claim
    if claim is None:
        return _not_started(evidence)
    match claim.what:
        case What.CANCELLED:
            return HPCJobInfo(JobStatus.CANCELLED, reason=FailureReason.CANCELLED, finished_at=_time(claim.at))
        case What.DROPPED:
            reason = FailureReason.STOPPED_OUTSIDE if claim.text == FORGOTTEN else FailureReason.BACKEND_FAILED
            return HPCJobInfo(JobStatus.FAILED, reason=reason, message=claim.text)
        case What.STARTED:
            return _started(claim, evidence)


def _recorded(text: str, evidence: Evidence) -> HPCJobInfo:
    info = info_of(text, None)
    if not _is_lost(text):
        return info
    words = info.message or ""
    if not evidence.same_scheduler:
        return replace(info, reason=FailureReason.BACKEND_FAILED, message=f"{RESTARTED}; {words}")
    if evidence.error is not None and evidence.error.killed_workers:
        words = f"{evidence.error.text}; {words}"
    return replace(info, reason=FailureReason.NODE_FAILURE, message=words)


def _is_lost(text: str) -> bool:
    """Whether the watcher wrote the record because its Dask worker had gone."""
    try:
        data = json.loads(text)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("lost") is True


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
    """It runs as long as its watcher lives, whatever Dask thinks of the task."""
    running = HPCJobInfo(JobStatus.RUNNING, started_at=_time(claim.at), node=claim.host)
    if claim.alive(evidence.now) or evidence.state == "processing":
        return running
    lost = f"the Dask worker {claim.worker} on {claim.host} was lost with the job"
    if evidence.state is not None and evidence.state not in ("memory", "forgotten"):
        # Dask has taken the task from the worker that ran it, which happens only when that one is gone.
        words = f"{evidence.error.text}; {lost}" if evidence.error is not None else lost
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE, message=words, node=claim.host)
    if not evidence.same_scheduler:
        text = f"{RESTARTED}; {lost}"
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.BACKEND_FAILED, message=text, node=claim.host)
    return UNKNOWN


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
