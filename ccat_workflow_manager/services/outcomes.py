"""Outcomes that a person sets by hand, in place of an attempt."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from uuid import UUID

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.locked_rows import LockedRow
from ccat_workflow_manager.db.queries.step_runs import runs_of_step_runs
from ccat_workflow_manager.db.retries import lock_reopenable
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.errors import Conflict, Fault, NotFound
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import ACTIVE, Event, Status


class Outcome(StrEnum):
    """What a person may say about a step run that did not complete."""

    COMPLETED = "completed"
    """The work was done in another way. It has no products."""
    SKIPPED = "skipped"
    """The work is not needed. The step runs behind it go on without it."""


_EVENTS = {Outcome.COMPLETED: Event.SET_COMPLETED, Outcome.SKIPPED: Event.SET_SKIPPED}


class Outcomes:
    """Sets the outcomes of step runs of one deployment."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def set(self, step_run_id: UUID, outcome: Outcome, reason: str, *, actor: str) -> None:
        """Set the outcome of a step run that did not complete. Step runs that were skipped because of it go on."""

        def work(unit: UnitOfWork) -> None:
            run_id = runs_of_step_runs(unit, [step_run_id]).get(step_run_id)
            if run_id is None:
                raise NotFound(f"there is no step run {step_run_id}")
            behind = lock_reopenable(unit, [run_id], set(), done=step_run_id)
            store = RunStore(unit)
            row = store.lock([step_run_id])[step_run_id]
            _check(row, outcome, set_before=store.set_by_hand(step_run_id))
            done = store.apply(_transitions(row, outcome, reason, actor, behind))
            store.restate_failure(run_id)
            audit.describe(after={"outcome": outcome, "reason": reason})
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, done.ready))

        self._database.transact("commit.outcome", work)


def _check(row: LockedRow, outcome: Outcome, *, set_before: bool) -> None:
    if row.status is Status.COMPLETED or set_before:
        by = " by hand" if set_before else ""
        raise _refused(f"this step run is {row.status}{by} already; only what did not complete gets an outcome")
    if row.status in ACTIVE or (row.status is Status.PENDING and row.claims > 0):
        raise _refused(f"this step run is {row.status} and may have a job; cancel it first")
    if outcome is Outcome.COMPLETED and row.unmet > 0:
        raise _refused("steps before this one have not completed; set their outcomes first, or this one to skipped")


def _refused(why: str) -> Conflict:
    return Conflict(why, [Fault("outcome", why)])


def _transitions(
    row: LockedRow, outcome: Outcome, reason: str, actor: str, behind: Collection[UUID]
) -> list[Transition]:
    text = f"set to {outcome} by {actor}: {reason}"
    event = TransitionEvent(_EVENTS[outcome], actor, reason=FailureReason.SET_BY_HAND, text=text)
    again = TransitionEvent(Event.RETRIED, actor, text=f"{row.step}/{row.key} was {text}")
    return [Transition(row.id, [event]), *(Transition(each, [again]) for each in behind if each != row.id)]
