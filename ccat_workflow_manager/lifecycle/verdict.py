"""From the state of a job to the transition of its step run: `judge`, a pure function."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ccat_workflow_manager.failures import FAILURES, FailureReason, Retry
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Facts, Resources, RetryPolicy, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.retry import decide, refusal
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE, Event, Status
from ccat_workflow_manager.lifecycle.waiting import action_required


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from one reported state of a job. Without events the status of the step run does not change."""

    events: tuple[TransitionEvent, ...] = ()
    facts: Facts | None = None
    waiting_for: str | None = None
    """Why the job does not run or go on, or that the backend does not know it."""
    unknown: bool = False
    """The backend does not know the job. It may exist all the same."""


def judge(
    item: WorkItem, info: HPCJobInfo, policy: RetryPolicy, *, actor: str, grace_seconds: float, jitter: float
) -> Verdict:
    """What the state of a job means for its step run, which is SUBMITTED or RUNNING."""
    match info.status:
        case JobStatus.UNKNOWN:
            return _unknown(item, policy, actor, grace_seconds, jitter)
        case JobStatus.PENDING:
            return Verdict(waiting_for=_waiting_for(item, info, f"queued at {item.backend}"))
        case JobStatus.RUNNING:
            started = (TransitionEvent(Event.JOB_STARTED, actor),) if item.status is Status.SUBMITTED else ()
            return Verdict(started, facts_of(info), _waiting_for(item, info))
        case JobStatus.COMPLETED:
            return Verdict((TransitionEvent(Event.JOB_SUCCEEDED, actor),), facts_of(info))
        case JobStatus.FAILED | JobStatus.CANCELLED:
            if item.cancel_requested:
                return Verdict((cancelled(actor),), facts_of(info))
            reason, text = failure_of(info, item.resources)
            facts = facts_of(info)
            return Verdict(failed(item, policy, reason, text, actor=actor, jitter=jitter, facts=facts), facts)


def _unknown(item: WorkItem, policy: RetryPolicy, actor: str, grace_seconds: float, jitter: float) -> Verdict:
    """The job counts as lost once the backend has not known it for the grace period."""
    unknown = item.unknown_seconds
    if unknown is None or unknown < grace_seconds:
        since = "" if unknown is None else f" for {unknown:.0f} s"
        text = f"{item.backend} does not know the job{since}; it counts as lost after {grace_seconds:.0f} s"
        return Verdict(waiting_for=_cancel_state(item) or text, unknown=True)
    if item.cancel_requested:
        text = unconfirmed(item.backend, item.job_id, unknown)
        return Verdict((cancelled(actor, text),), Facts(warnings=[text]), unknown=True)
    text = f"{item.backend} has not known the job {item.job_id} for {unknown:.0f} s"
    return Verdict(failed(item, policy, FailureReason.LOST, text, actor=actor, jitter=jitter), unknown=True)


def _waiting_for(item: WorkItem, info: HPCJobInfo, otherwise: str | None = None) -> str | None:
    """Why the job does not start, or does not go on though it runs."""
    reason = info.message or otherwise
    return _cancel_state(item) or (action_required(reason) if reason and info.attention else reason)


def _cancel_state(item: WorkItem) -> str | None:
    """What the canceller recorded, if a cancel is not confirmed yet. It says more than why the job waits."""
    return item.waiting_for if item.cancel_requested else None


def failed(
    item: WorkItem,
    policy: RetryPolicy,
    reason: FailureReason,
    text: str | None,
    *,
    actor: str,
    jitter: float,
    facts: Facts | None = None,
) -> tuple[TransitionEvent, ...]:
    """A failure, followed by a retry if the policy grants one."""
    if item.cancel_requested:
        return (cancelled(actor),)
    text = text or FAILURES[reason].text
    failure = TransitionEvent(Event.FAILED, actor, reason=reason, text=text)
    peak = facts.peak_memory_gb if facts is not None else None
    again = decide(reason, item.attempt, item.max_attempts, policy, item.resources, jitter, peak)
    more = FAILURES[reason].retry in (Retry.MORE_MEMORY, Retry.MORE_TIME)
    if again is None:
        if more or policy.irreversible:
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


def unconfirmed(backend: str, job_id: str | None, unknown_seconds: float) -> str:
    """The text of a cancel that ends because the backend has not known the job for the grace period."""
    return f"cancelled; {backend} has not known the job {job_id} for {unknown_seconds:.0f} s, the stop is not confirmed"


def stop_is_confirmed(status: Status, info: HPCJobInfo | None) -> bool:
    """Whether CANCELLED is a fact for a step run in this status. `info` is the state of its job; None: it has none.

    A job that completed before it was stopped is left to the poller.
    """
    if info is None:
        return status in (Status.PENDING, Status.COLLECTING_RESULTS)
    if status in LIVE:
        return info.finished and info.status is not JobStatus.COMPLETED
    return info.finished or status is Status.COLLECTING_RESULTS


def is_sought(late: WorkItem, now: WorkItem | None) -> bool:
    """Whether a worker still looks for the job of `late`, whose step run is `now`. A job that none seeks is stopped."""
    if now is None or now.attempt != late.attempt or now.cancel_requested:
        return False
    return now.job_id == late.job_id if now.job_id is not None else now.status in CANCELLABLE and now.claims > 0


_IN_OWN_WORDS = {
    FailureReason.COMMAND_NOT_FOUND: "",
    FailureReason.DISK_FULL: "No space was left on a disk: ",
}
"""Failures whose message is a sentence that says all."""


def failure_of(info: HPCJobInfo, resources: Resources) -> tuple[FailureReason, str]:
    """The reason and the text of a job that did not complete. `resources` are those it asked for."""
    reason = info.reason or _guess(info)
    text = FAILURES[reason].text
    if reason is FailureReason.OUT_OF_MEMORY:
        text = f"The program used more than its {resources.memory_gb:g} GB of memory and was stopped{_spent(info)}."
    elif reason is FailureReason.TIME_LIMIT:
        text = f"The program reached its time limit of {_figure(resources.time_hours)} h and was stopped{_spent(info)}."
    elif reason is FailureReason.NODE_FAILURE and info.node:
        text = f"The node that ran the job failed: {info.node}."
    elif reason in _IN_OWN_WORDS and info.message:
        return reason, f"{_IN_OWN_WORDS[reason]}{info.message}"
    words = info.message or ""
    if reason is FailureReason.PROGRAM_FAILED and info.exit_code is not None:
        words = f"exit code {info.exit_code}" + (f": {words}" if words else "")
    elif reason is FailureReason.KILLED_BY_SIGNAL and info.signal is not None:
        words = f"signal {info.signal}" + (f": {words}" if words else "")
    text = f"{text.removesuffix('.')} ({words})." if words else text
    return reason, f"{text} Last line of stderr: {info.last_words}" if info.last_words else text


def _figure(value: float) -> str:
    """Its first three digits, or all before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _spent(info: HPCJobInfo) -> str:
    """What the job had used of memory and time, and where, as far as that is known."""
    known = [
        f"at most {_figure(info.peak_memory_gb)} GB were seen" if info.peak_memory_gb else "",
        f"after {info.wall_time_seconds:.0f} s" if info.wall_time_seconds else "",
        f"on {info.node}" if info.node else "",
    ]
    text = ", ".join(filter(None, known))
    return f" ({text})" if text else ""


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
