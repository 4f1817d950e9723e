"""The legal transitions of a step run. A transition that is not in `TRANSITIONS` does not exist.

Everything else here (which statuses are final, live, cancellable, leased) is derived from that one table, and so are
the CHECK constraints of the database and the drawing in the documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from ccat_workflow_manager.errors import Conflict


class Status(StrEnum):
    """The status of a step run."""

    PENDING = "PENDING"
    STAGING_DATA = "STAGING_DATA"
    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    COLLECTING_RESULTS = "COLLECTING_RESULTS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"


class Event(StrEnum):
    """What happens to a step run."""

    CREATED = "created"
    CLAIMED = "claimed"
    RELEASED = "released"
    SKIPPED = "skipped"
    JOB_SUBMITTED = "job_submitted"
    JOB_STARTED = "job_started"
    JOB_SUCCEEDED = "job_succeeded"
    RESULTS_COLLECTED = "results_collected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"


class RunStatus(StrEnum):
    """The status of a run: always a function of its step runs."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class IllegalTransition(Conflict):
    """The step run is in a status in which this cannot happen to it."""

    code = "illegal_move"


_S, _E = Status, Event

TRANSITIONS: Mapping[tuple[Status, Event], Status] = MappingProxyType(
    {
        (_S.PENDING, _E.CLAIMED): _S.STAGING_DATA,
        (_S.PENDING, _E.SKIPPED): _S.SKIPPED,
        (_S.PENDING, _E.CANCELLED): _S.CANCELLED,
        (_S.STAGING_DATA, _E.RELEASED): _S.PENDING,
        (_S.STAGING_DATA, _E.JOB_SUBMITTED): _S.SUBMITTED,
        (_S.STAGING_DATA, _E.FAILED): _S.FAILED,
        (_S.STAGING_DATA, _E.CANCELLED): _S.CANCELLED,
        (_S.SUBMITTED, _E.JOB_STARTED): _S.RUNNING,
        (_S.SUBMITTED, _E.JOB_SUCCEEDED): _S.COLLECTING_RESULTS,
        (_S.SUBMITTED, _E.FAILED): _S.FAILED,
        (_S.SUBMITTED, _E.CANCELLED): _S.CANCELLED,
        (_S.RUNNING, _E.JOB_SUCCEEDED): _S.COLLECTING_RESULTS,
        (_S.RUNNING, _E.FAILED): _S.FAILED,
        (_S.RUNNING, _E.CANCELLED): _S.CANCELLED,
        (_S.COLLECTING_RESULTS, _E.RESULTS_COLLECTED): _S.COMPLETED,
        (_S.COLLECTING_RESULTS, _E.FAILED): _S.FAILED,
        (_S.COLLECTING_RESULTS, _E.CANCELLED): _S.CANCELLED,
        (_S.FAILED, _E.RETRIED): _S.PENDING,
        (_S.CANCELLED, _E.RETRIED): _S.PENDING,
        (_S.SKIPPED, _E.RETRIED): _S.PENDING,
    }
)

INITIAL = Status.PENDING


def next_status(status: Status, event: Event) -> Status:
    """The status after `event`, or IllegalTransition."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise IllegalTransition(f"a step run that is {status} cannot be {event.replace('_', ' ')}") from None


def _from(events: Iterable[Event]) -> frozenset[Status]:
    wanted = set(events)
    return frozenset(status for status, event in TRANSITIONS if event in wanted)


CANCELLABLE = _from([Event.CANCELLED])
RETRYABLE = _from([Event.RETRIED])
FINISHED = frozenset(Status) - CANCELLABLE
"""Nothing more happens unless somebody asks for a retry."""
LEASED = frozenset(after for (_, event), after in TRANSITIONS.items() if event is Event.CLAIMED) | _from(
    [Event.RESULTS_COLLECTED]
)
"""A worker has it in its hands and holds a lease: staging and collecting."""
LIVE = _from([Event.JOB_SUCCEEDED])
"""A job exists at the backend and is being followed."""
ACTIVE = CANCELLABLE - {INITIAL}
"""Between the claim and the end."""


def run_status(counts: Mapping[Status, int]) -> RunStatus:
    """The status of a run with these step runs; the database computes the same in a generated column."""
    open_ = sum(counts.get(status, 0) for status in CANCELLABLE)
    if open_ == 0:
        if counts.get(Status.FAILED, 0):
            return RunStatus.FAILED
        if counts.get(Status.CANCELLED, 0):
            return RunStatus.CANCELLED
        return RunStatus.COMPLETED
    if open_ == counts.get(Status.PENDING, 0) == sum(counts.values()):
        return RunStatus.PENDING
    return RunStatus.RUNNING
