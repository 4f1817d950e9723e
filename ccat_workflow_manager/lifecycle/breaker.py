"""When the rest of a step has to wait: its step runs fail one like the other, and more of them would do the same.

A breaker belongs to a *circuit*: a step of a pipeline as it is defined, with its image. Another image, another command
or other resources are another circuit, so a correction goes through at once.

It counts step runs, not attempts, and only such failures as lie in the step itself (`failures.COMMON`): a node that
died, a full disk or a missing input say nothing about the next step run. A failure that is followed by an attempt with
more memory or time does not count either: that one may well succeed. A success begins the count anew.

Open, it lets nothing through, but for one *probe* at a time, once the time for that has come. If the probe completes,
the breaker closes; if it fails, the next one has to wait as long again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from uuid import UUID

from ccat_workflow_manager.failures import COMMON, FAILURES, FailureReason, Retry
from ccat_workflow_manager.json_values import JSON, canonical_json

_REMEMBERED = 5
"""So many times the failures that open a breaker are remembered at most: they may be of several kinds."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """How many failures open a breaker, counted over how long, and when one step run is tried again."""

    failures: int = 0
    """0: breakers never open."""
    window_seconds: float = 600
    probe_seconds: float = 900
    """0: none is tried; an operator, or what was running already, has to close it."""


OFF = BreakerPolicy()


@dataclass(frozen=True, slots=True)
class Failure:
    """That a step run failed, how, and when."""

    step_run_id: UUID
    way: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known of one circuit. Closed and without failures, it need not be kept."""

    failures: Sequence[Failure] = ()
    """Since the last success, oldest first, one for each step run."""
    opened_at: datetime | None = None
    way: str | None = None
    """How all those failed that opened it."""
    probe: UUID | None = None
    """The step run that is let through."""
    probe_at: datetime | None = None
    """From then on another one may be tried; None: never."""

    @property
    def alike(self) -> int:
        return sum(1 for failure in self.failures if failure.way == self.way)


def way(reason: FailureReason, *, raised: bool, exit_code: int | None = None, signal: int | None = None) -> str | None:
    """In what way an attempt failed, as far as it says something about the step; None if it does not.

    `raised`: it is followed by an attempt that gets more of what there was too little of.
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
    """The breaker once this step run has failed."""
    next_probe = failure.at + timedelta(seconds=policy.probe_seconds) if policy.probe_seconds else None
    if breaker.opened_at is not None:
        if breaker.probe != failure.step_run_id:
            # It was on its way already.
            return breaker
        return replace(breaker, probe=None, probe_at=next_probe)
    since = failure.at - timedelta(seconds=policy.window_seconds)
    kept = [each for each in breaker.failures if each.at >= since and each.step_run_id != failure.step_run_id]
    kept = [*kept, failure][-_REMEMBERED * max(policy.failures, 1) :]
    counted = replace(breaker, failures=kept, way=failure.way)
    if not policy.failures or counted.alike < policy.failures:
        return replace(counted, way=None)
    return replace(counted, opened_at=failure.at, probe_at=next_probe)


def reason_text(breaker: Breaker, step: str, image: str | None, policy: BreakerPolicy) -> str:
    """Why a breaker has opened, for operators."""
    what = f"{step} with the image {image}" if image else f"{step} (without an image)"
    window = f"{policy.window_seconds / 60:g} min"
    count = f"{breaker.alike} of the last {len(breaker.failures)} step runs of {what}"
    return f"{count} failed the same way ({breaker.way}) within {window}"


def held_text(reason: str, breaker_id: object, *, probing: bool, probe_at: str | None) -> str:
    """Why a step run is held back, and what may be done about it."""
    if probing:
        trying = "; one of them is being tried now"
    else:
        trying = f"; one of them is tried after {probe_at}" if probe_at else ""
    return f"held back: {reason}{trying}; release with `ccat-wm breakers release {breaker_id}`"


def circuit(pipeline: str, step: Mapping[str, JSON], image: str | None) -> UUID:
    """The circuit of a step. `step` is what its definition says, but for what it works on and what it waits for."""
    text = canonical_json([pipeline, step, image])
    return UUID(bytes=blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
