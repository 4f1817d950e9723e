"""Why a step run waits, in one sentence for operators. Every wait has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ccat_workflow_manager.json_values import listed

ACTION_REQUIRED = "action required: "
"""The beginning of every reason that only an operator can remove. Queries find such waits by it."""

_LONGEST_LIST = 5


def action_required(reason: str) -> str:
    return f"{ACTION_REQUIRED}{reason}"


@dataclass(frozen=True, slots=True)
class WaitFacts:
    """What decides whether a PENDING step run can be launched."""

    backend: str
    cancel_requested: bool = False
    paused: str | None = None
    """The text of the pause of its run."""
    unmet: int = 0
    """How many of the steps it depends on are not completed."""
    upstream: Sequence[str] = ()
    """The names of these steps, if they are known."""
    not_before: datetime | None = None
    now: datetime | None = None
    """Without it, `not_before` is taken to be in the future."""
    stored_reason: str | None = None
    """Why `not_before` was set: the failure of the last attempt, or what kept the worker from submitting the job."""
    backend_problem: str | None = None
    on_hold: str | None = None
    """The text of the hold that keeps it from starting."""
    at_limit: str | None = None
    """The text of the limit of its project that keeps it from starting."""
    held_back: str | None = None
    """The text of the open breaker that holds it back."""
    full_place: str | None = None
    """Why the backend takes no more jobs with its resources."""
    workers_serving: int | None = None
    """How many living workers serve this backend. None: not counted."""


def explain(facts: WaitFacts) -> str:
    """The first reason that keeps this step run waiting."""
    if facts.cancel_requested:
        return f"is being cancelled: {facts.stored_reason}" if facts.stored_reason else "is being cancelled"
    if facts.paused is not None:
        return facts.paused
    if facts.unmet > 0:
        return f"waits for {_upstream(facts)}"
    if facts.on_hold is not None:
        return facts.on_hold
    if facts.held_back is not None:
        return facts.held_back
    if facts.not_before is not None and (facts.now is None or facts.not_before > facts.now):
        because = f": {facts.stored_reason}" if facts.stored_reason else ""
        return f"not before {utc_text(facts.not_before)}{because}"
    away = unattended(facts.backend, facts.backend_problem, facts.workers_serving)
    if away is None and facts.at_limit is not None:
        return facts.at_limit
    if away is None and facts.full_place is not None:
        return f"{facts.backend} takes no more such jobs now: {facts.full_place}"
    return away or f"queued for a worker of backend {facts.backend}"


def unattended(backend: str, problem: str | None, workers_serving: int | None) -> str | None:
    """Why no worker can use this backend now, or None if one can."""
    if problem:
        return f"the backend {backend} is not available: {problem}"
    return f"no worker serves the backend {backend}" if workers_serving == 0 else None


def uncollected(backend: str, workers_serving: int | None) -> str:
    """Why finished results are not yet collected. Results are files, so a problem of the backend does not matter."""
    return unattended(backend, None, workers_serving) or f"its results wait for a worker of backend {backend}"


def _upstream(facts: WaitFacts) -> str:
    if facts.upstream:
        return listed(facts.upstream, _LONGEST_LIST)
    return "1 step that it depends on" if facts.unmet == 1 else f"{facts.unmet} steps that it depends on"


def utc_text(moment: datetime) -> str:
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
