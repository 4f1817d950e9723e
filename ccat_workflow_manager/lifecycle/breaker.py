"""The rule of the circuit breaker: when the step runs of a step fail alike, the rest of them is held back.

A breaker belongs to a step of a pipeline as it is defined, with its image; `breaker_key` is the hash of both. A step
with another image, command or resources has another key, so a correction is launched at once.

A breaker counts step runs, not attempts, and only failures whose cause is the step itself (`failures.COMMON`): a dead
node, a full disk or a missing input say nothing about the next step run. A failure that is followed by an attempt with
more memory or time does not count, because that attempt may succeed. A success resets the count.

An open breaker holds back every step run but one *probe* at a time. If the probe completes, the breaker closes; if it
fails, the next probe has to wait as long again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from uuid import UUID

from ccat_workflow_manager.failures import COMMON, FAILURES, FailureReason, Retry
from ccat_workflow_manager.json_values import JSON, canonical_json

_KEPT_FACTOR = 5
"""A breaker keeps this many times the failures that open it, since they may have different signatures."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """How many failures open a breaker, within which time, and when a probe is launched."""

    failures: int = 0
    """0: breakers never open."""
    window_seconds: float = 600
    probe_seconds: float = 900
    """0: no probe is launched. Only an operator, or a job that was running already, closes the breaker."""


OFF = BreakerPolicy()


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed step run, with the signature and the time of its failure."""

    step_run_id: UUID
    signature: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state of one breaker. A closed breaker without failures is not stored."""

    failures: Sequence[Failure] = ()
    """Since the last success, oldest first, one per step run."""
    opened_at: datetime | None = None
    failure_signature: str | None = None
    """The signature of the failures that opened it."""
    probe: UUID | None = None
    """The step run that is launched although the breaker is open."""
    probe_at: datetime | None = None
    """When the next probe may be launched. None: never."""

    @property
    def alike(self) -> int:
        """How many failures have the signature of the breaker."""
        return sum(1 for failure in self.failures if failure.signature == self.failure_signature)


def failure_signature(
    reason: FailureReason, *, raised: bool, exit_code: int | None = None, signal: int | None = None
) -> str | None:
    """What failures must have in common to open a breaker. None: this failure does not count.

    `raised`: the next attempt gets more memory or time.
    """
    more = FAILURES[reason].retry in (Retry.MORE_MEMORY, Retry.MORE_TIME)
    if reason not in COMMON or (raised and more):
        return None
    if reason is FailureReason.PROGRAM_FAILED and exit_code is not None:
        return f"{reason}, exit code {exit_code}"
    if reason is FailureReason.KILLED_BY_SIGNAL and signal is not None:
        return f"{reason}, signal {signal}"
    return str(reason)


def after_failure(breaker: Breaker, failure: Failure, policy: BreakerPolicy) -> Breaker:
    """The breaker after this failure."""
    next_probe = failure.at + timedelta(seconds=policy.probe_seconds) if policy.probe_seconds else None
    if breaker.opened_at is not None:
        if breaker.probe != failure.step_run_id:
            # It was launched before the breaker opened.
            return breaker
        return replace(breaker, probe=None, probe_at=next_probe)
    since = failure.at - timedelta(seconds=policy.window_seconds)
    kept = [each for each in breaker.failures if each.at >= since and each.step_run_id != failure.step_run_id]
    kept = [*kept, failure][-_KEPT_FACTOR * max(policy.failures, 1) :]
    counted = replace(breaker, failures=kept, failure_signature=failure.signature)
    if not policy.failures or counted.alike < policy.failures:
        return replace(counted, failure_signature=None)
    return replace(counted, opened_at=failure.at, probe_at=next_probe)


def reason_text(breaker: Breaker, step: str, image: str | None, policy: BreakerPolicy) -> str:
    """Why a breaker opened, for operators."""
    what = f"{step} with the image {image}" if image else f"{step} (without an image)"
    window = f"{policy.window_seconds / 60:g} min"
    count = f"{breaker.alike} of the last {len(breaker.failures)} step runs of {what}"
    return f"{count} failed the same way ({breaker.failure_signature}) within {window}"


def held_text(reason: str, breaker_id: object, *, probing: bool, probe_at: str | None) -> str:
    """Why a step run is held back, what happens next, and what an operator can do."""
    if probing:
        probe = "; one of them runs now as a probe"
    else:
        probe = f"; one of them is launched as a probe after {probe_at}" if probe_at else ""
    return f"held back: {reason}{probe}; release with `ccat-wm breakers release {breaker_id}`"


def program_digest(program: Mapping[str, JSON]) -> str:
    """Equal for equal programs. `program` is the definition of a step without its items, dependencies and image."""
    return blake2b(canonical_json(program).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@lru_cache(maxsize=1024)
def breaker_key(pipeline: str, program: str, image: str | None) -> UUID:
    """The key of the breaker of a step. `program` is the `program_digest` of its definition."""
    text = canonical_json([pipeline, program, image])
    return UUID(bytes=blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
