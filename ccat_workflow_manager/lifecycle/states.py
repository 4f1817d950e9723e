"""The states of a step run. `TRANSITIONS` holds every legal transition.

The sets of statuses below (finished, live, cancellable, leased), the CHECK constraints of the database and the diagram
in the documentation are derived from that table.
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
    REUSED = "reused"
    SET_COMPLETED = "set_completed"
    SET_SKIPPED = "set_skipped"


class RunStatus(StrEnum):
    """The status of a run, a function of the statuses of its step runs."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class IllegalTransition(Conflict):
    """The status of the step run does not allow this."""

    code = "illegal_move"


_S, _E = Status, Event

TRANSITIONS: Mapping[tuple[Status, Event], Status] = MappingProxyType(
    {
        (_S.PENDING, _E.CLAIMED): _S.STAGING_DATA,
        (_S.PENDING, _E.SKIPPED): _S.SKIPPED,
        (_S.PENDING, _E.CANCELLED): _S.CANCELLED,
        (_S.STAGING_DATA, _E.RELEASED): _S.PENDING,
        (_S.STAGING_DATA, _E.JOB_SUBMITTED): _S.SUBMITTED,
        (_S.STAGING_DATA, _E.REUSED): _S.COMPLETED,
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
        **{(status, _E.SET_COMPLETED): _S.COMPLETED for status in (_S.PENDING, _S.FAILED, _S.CANCELLED, _S.SKIPPED)},
        **{(status, _E.SET_SKIPPED): _S.SKIPPED for status in (_S.PENDING, _S.FAILED, _S.CANCELLED, _S.SKIPPED)},
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
"""Final unless a retry is requested, or a person sets another outcome."""
LEASED = frozenset(after for (_, event), after in TRANSITIONS.items() if event is Event.CLAIMED) | _from(
    [Event.RESULTS_COLLECTED]
)
"""A worker may hold a lease on the step run: staging and collecting."""
LIVE = _from([Event.JOB_SUCCEEDED])
"""A job exists at the backend and is polled."""
ACTIVE = CANCELLABLE - {INITIAL}
"""Between the claim and the end."""


def run_status(counts: Mapping[Status, int], *, tolerated: bool = False) -> RunStatus:
    """The status of a run with these counts of step runs. `db.conditions.RUN_STATUS_SQL` is the same rule in SQL.

    `tolerated`: the steps behind them tolerate all step runs that ended without completing.
    """
    open_ = sum(counts.get(status, 0) for status in CANCELLABLE)
    if open_ == 0:
        if counts.get(Status.FAILED, 0) and not tolerated:
            return RunStatus.FAILED
        if counts.get(Status.CANCELLED, 0) and not tolerated:
            return RunStatus.CANCELLED
        return RunStatus.COMPLETED
    if open_ == counts.get(Status.PENDING, 0) == sum(counts.values()):
        return RunStatus.PENDING
    return RunStatus.RUNNING
