"""Why a step run does not get on, in one sentence for people. Every wait has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ccat_workflow_manager.json_values import listed

_NAMED = 5


@dataclass(frozen=True, slots=True)
class WaitFacts:
    """What decides whether a PENDING step run can go on."""

    backend: str
    cancel_requested: bool = False
    paused: bool = False
    unmet: int = 0
    """How many of the steps it depends on are not completed."""
    upstream: Sequence[str] = ()
    """The names of these steps, where they are known."""
    not_before: datetime | None = None
    now: datetime | None = None
    """Without it, `not_before` counts as lying ahead."""
    stored_reason: str | None = None
    """Why `not_before` was set: the failure of the last attempt, or what kept a worker from going on."""
    backend_problem: str | None = None
    held_back: str | None = None
    """Why an open breaker holds it back, if one does."""
    workers_serving: int | None = None
    """How many living workers serve this backend; None if nobody asked."""


def explain(facts: WaitFacts) -> str:
    """The first thing that keeps this step run waiting."""
    if facts.cancel_requested:
        return f"is being cancelled: {facts.stored_reason}" if facts.stored_reason else "is being cancelled"
    if facts.paused:
        return "the run is paused"
    if facts.unmet > 0:
        return f"waits for {_upstream(facts)}"
    if facts.held_back is not None:
        return facts.held_back
    if facts.not_before is not None and (facts.now is None or facts.not_before > facts.now):
        because = f": {facts.stored_reason}" if facts.stored_reason else ""
        return f"not before {_time(facts.not_before)}{because}"
    nobody = unattended(facts.backend, facts.backend_problem, facts.workers_serving)
    return nobody or f"queued for a worker of backend {facts.backend}"


def unattended(backend: str, problem: str | None, workers_serving: int | None) -> str | None:
    """Why nobody can do anything at a backend now, if that is so."""
    if problem:
        return f"the backend {backend} is not available: {problem}"
    return f"no worker serves the backend {backend}" if workers_serving == 0 else None


def uncollected(backend: str, workers_serving: int | None) -> str:
    """Why results that nobody has in hand are not collected. They are files: that needs no answer of the backend."""
    return unattended(backend, None, workers_serving) or f"its results wait for a worker of backend {backend}"


def _upstream(facts: WaitFacts) -> str:
    if facts.upstream:
        return listed(facts.upstream, _NAMED)
    return "1 step that it depends on" if facts.unmet == 1 else f"{facts.unmet} steps that it depends on"


def _time(moment: datetime) -> str:
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
