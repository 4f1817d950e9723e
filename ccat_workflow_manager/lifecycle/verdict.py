"""From what a backend says about a job to what happens to its step run: one pure function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ccat_workflow_manager.failures import FAILURES, FailureReason, Retry
from ccat_workflow_manager.lifecycle.attention import asking_for_a_person
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Facts, RetryPolicy, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.retry import decide, refusal
from ccat_workflow_manager.lifecycle.states import Event, Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from one look at a job. Without events the step run stays as it is, perhaps with a new reason."""

    events: tuple[TransitionEvent, ...] = ()
    facts: Facts | None = None
    waiting_for: str | None = None
    """Why the job does not run yet, or that nothing is known of it."""
    unknown: bool = False
    """Nothing is known of the job: whatever follows, it may still be there."""


def judge(
    item: WorkItem, info: HPCJobInfo, policy: RetryPolicy, *, actor: str, grace_seconds: float, jitter: float
) -> Verdict:
    """What the news about a job mean for a step run that is SUBMITTED or RUNNING."""
    match info.status:
        case JobStatus.UNKNOWN:
            return _silence(item, policy, actor, grace_seconds, jitter)
        case JobStatus.PENDING:
            words = info.message or f"queued at {item.backend}"
            return Verdict(waiting_for=_of_cancel(item) or (asking_for_a_person(words) if info.attention else words))
        case JobStatus.RUNNING:
            started = (TransitionEvent(Event.JOB_STARTED, actor),) if item.status is Status.SUBMITTED else ()
            return Verdict(started, facts_of(info), _of_cancel(item))
        case JobStatus.COMPLETED:
            return Verdict((TransitionEvent(Event.JOB_SUCCEEDED, actor),), facts_of(info))
        case JobStatus.FAILED | JobStatus.CANCELLED:
            if item.cancel_requested:
                return Verdict((cancelled(actor),), facts_of(info))
            reason, text = failure_of(info)
            return Verdict(failed(item, policy, reason, text, actor=actor, jitter=jitter), facts_of(info))


def _silence(item: WorkItem, policy: RetryPolicy, actor: str, grace_seconds: float, jitter: float) -> Verdict:
    silent = item.unknown_seconds
    if silent is None or silent < grace_seconds:
        since = "" if silent is None else f" for {silent:.0f} s"
        text = f"{item.backend} does not know the job{since}; taken as lost after {grace_seconds:.0f} s"
        return Verdict(waiting_for=_of_cancel(item) or text, unknown=True)
    if item.cancel_requested:
        text = unconfirmed(item.backend, item.job_id, silent)
        return Verdict((cancelled(actor, text),), Facts(warnings=[text]), unknown=True)
    text = f"{item.backend} has not known the job {item.job_id} for {silent:.0f} s"
    return Verdict(failed(item, policy, FailureReason.LOST, text, actor=actor, jitter=jitter), unknown=True)


def _of_cancel(item: WorkItem) -> str | None:
    """What is known about a cancel that is not confirmed yet: of more use than why the job waits."""
    return item.waiting_for if item.cancel_requested else None


def failed(
    item: WorkItem, policy: RetryPolicy, reason: FailureReason, text: str | None, *, actor: str, jitter: float
) -> tuple[TransitionEvent, ...]:
    """A failure, and the retry if the policy grants one: both happen together or not at all."""
    text = text or FAILURES[reason].text
    failure = TransitionEvent(Event.FAILED, actor, reason=reason, text=text)
    if item.cancel_requested:
        return (cancelled(actor),)
    again = decide(reason, item.attempt, item.max_attempts, policy, item.resources, jitter)
    more = FAILURES[reason].retry in (Retry.MORE_MEMORY, Retry.MORE_TIME)
    if again is None:
        if more:
            why = refusal(reason, item.attempt, item.max_attempts, policy, item.resources)
            failure = replace(failure, text=f"{text} ({why})")
        return (failure,)
    if more:
        failure = replace(failure, text=f"{text} (next: {again.text})")
    retried = TransitionEvent(
        Event.RETRIED,
        actor="retry policy",
        reason=reason,
        text=again.text,
        delay_seconds=again.delay_seconds,
        resources=again.resources if again.resources != item.resources else None,
    )
    return (failure, retried)


def cancelled(actor: str, text: str | None = None) -> TransitionEvent:
    text = text or FAILURES[FailureReason.CANCELLED].text
    return TransitionEvent(Event.CANCELLED, actor, reason=FailureReason.CANCELLED, text=text)


def unconfirmed(backend: str, job_id: str | None, silent_seconds: float) -> str:
    """How a cancel ends when the backend has not known the job for the whole of the grace."""
    return (
        f"cancelled; {backend} has not known the job {job_id} for {silent_seconds:.0f} s,"
        " that it has stopped was not confirmed"
    )


def failure_of(info: HPCJobInfo) -> tuple[FailureReason, str]:
    """Why a job that did not complete ended, in the best words there are."""
    reason = info.reason or _guess(info)
    words = info.message or ""
    if reason is FailureReason.PROGRAM_FAILED and info.exit_code is not None:
        words = f"exit code {info.exit_code}" + (f": {words}" if words else "")
    elif reason is FailureReason.KILLED_BY_SIGNAL and info.signal is not None:
        words = f"signal {info.signal}" + (f": {words}" if words else "")
    return reason, f"{FAILURES[reason].text} ({words})" if words else FAILURES[reason].text


def _guess(info: HPCJobInfo) -> FailureReason:
    if info.status is JobStatus.CANCELLED:
        return FailureReason.STOPPED_OUTSIDE
    if info.signal:
        return FailureReason.KILLED_BY_SIGNAL
    return FailureReason.PROGRAM_FAILED if info.exit_code else FailureReason.BACKEND_FAILED


def facts_of(info: HPCJobInfo) -> Facts:
    return Facts(
        job_state=info.status,
        exit_code=info.exit_code,
        signal=info.signal,
        wall_time_seconds=info.wall_time_seconds,
        cpu_hours=info.cpu_hours,
        cpu_hours_allocated=info.cpu_hours_allocated,
        peak_memory_gb=info.peak_memory_gb,
        started_at=info.started_at,
        finished_at=info.finished_at,
        node=info.node,
        warnings=[info.warning] if info.warning else None,
    )


Policies = Callable[[WorkItem], RetryPolicy]
"""Where the retry policy of a step run comes from."""
