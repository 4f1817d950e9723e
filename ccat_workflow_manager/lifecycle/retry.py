"""Whether a failed attempt is followed by another one, when, and with which resources."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ccat_workflow_manager.failures import FAILURES, RETRYABLE_BY_DEFAULT, FailureReason, Retry
from ccat_workflow_manager.lifecycle.models import Resources, RetryPolicy

MAX_DELAY_SECONDS = 3600
MAX_MEMORY_GB = 100_000
MAX_TIME_HOURS = 8760
JITTER = 0.25
"""The largest random extension of a delay. Step runs that failed together are not all retried together."""

NEVER_RETRIED = frozenset(
    {
        FailureReason.CANCELLED,
        FailureReason.SET_BY_HAND,
        FailureReason.UPSTREAM_CANCELLED,
        FailureReason.UPSTREAM_FAILED,
    }
)
"""No attempt of the step run itself failed, so no policy can retry it."""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """The next attempt."""

    delay_seconds: float
    resources: Resources
    text: str


def decide(
    reason: FailureReason,
    attempt: int,
    max_attempts: int,
    policy: RetryPolicy,
    resources: Resources,
    jitter: float,
    peak_memory_gb: float | None = None,
) -> RetryDecision | None:
    """The next attempt after attempt number `attempt` failed for `reason`. None: there is none, see `refusal`.

    `jitter` is a random number in [0, 1); `peak_memory_gb` is what the attempt was measured to use.
    """
    if refusal(reason, attempt, max_attempts, policy, resources) is not None:
        return None
    more = _increased(reason, policy, resources, peak_memory_gb)
    delay = back_off(policy.backoff_seconds, attempt) * (1 + JITTER * jitter)
    text = f"attempt {attempt + 1} of {max_attempts} {duration_text(delay)}"
    if more.memory_gb != resources.memory_gb:
        text += f" with {more.memory_gb:g} GB instead of {resources.memory_gb:g} GB"
    if more.time_hours != resources.time_hours:
        text += f" with {more.time_hours:g} h instead of {resources.time_hours:g} h"
    return RetryDecision(delay, more, text)


def refusal(
    reason: FailureReason, attempt: int, max_attempts: int, policy: RetryPolicy, resources: Resources
) -> str | None:
    """Why there is no further attempt, for operators. None: there is one."""
    if policy.irreversible:
        made = f"the program had made {policy.irreversible_after} (irreversible_after)"
        return f"no further attempt: {made}; only a person may repeat it"
    wanted = RETRYABLE_BY_DEFAULT if policy.on is None else policy.on
    if reason in NEVER_RETRIED or reason not in wanted:
        return f"no further attempt: {reason} is not a reason to retry this step"
    if attempt >= max_attempts:
        return f"no further attempt: this was attempt {attempt} of {max_attempts}"
    kind = FAILURES[reason].retry
    if kind is Retry.MORE_MEMORY and policy.memory_factor > 1 and resources.memory_gb >= _memory_cap(policy):
        return f"no further attempt: more memory than {_memory_cap(policy):g} GB is not allowed (memory_cap_gb)"
    if kind is Retry.MORE_TIME and policy.time_factor > 1 and resources.time_hours >= _time_cap(policy):
        return f"no further attempt: more time than {_time_cap(policy):g} h is not allowed (time_cap_hours)"
    return None


def back_off(base_seconds: float, attempt: int) -> float:
    """The delay after attempt number `attempt`: doubled each time, at most one hour."""
    return min(float(MAX_DELAY_SECONDS), base_seconds * 2.0 ** (attempt - 1))


def duration_text(seconds: float) -> str:
    """`at once`, `in 12 s`, `in 4 min`, `in 1.2 h`."""
    if seconds < 0.5:
        return "at once"
    if seconds < 120:
        return f"in {seconds:.0f} s"
    if seconds < 3600:
        return f"in {seconds / 60:.0f} min"
    return f"in {seconds / 3600:.1f} h"


def _increased(
    reason: FailureReason, policy: RetryPolicy, resources: Resources, peak_memory_gb: float | None
) -> Resources:
    match FAILURES[reason].retry:
        case Retry.MORE_MEMORY if policy.memory_factor > 1:
            # Some sites let a program use more than it asked for before they stop it.
            used = max(resources.memory_gb, peak_memory_gb or 0)
            wanted = round(used * policy.memory_factor, 6)
            return replace(resources, memory_gb=max(resources.memory_gb, min(wanted, _memory_cap(policy))))
        case Retry.MORE_TIME:
            wanted = round(resources.time_hours * policy.time_factor, 6)
            return replace(resources, time_hours=max(resources.time_hours, min(wanted, _time_cap(policy))))
        case _:
            return resources


def _memory_cap(policy: RetryPolicy) -> float:
    return MAX_MEMORY_GB if policy.memory_cap_gb is None else policy.memory_cap_gb


def _time_cap(policy: RetryPolicy) -> float:
    return MAX_TIME_HOURS if policy.time_cap_hours is None else policy.time_cap_hours
