"""Writes batches of transitions. A member that PostgreSQL refuses harms no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.db.sql_errors import RowRefused
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.breaker import OFF, BreakerPolicy
from ccat_workflow_manager.lifecycle.models import Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event

log = logging.getLogger(__name__)

Wait = tuple[UUID, int, str | None, bool]
"""An argument of `RunStore.record_waits`."""


class BatchWriter:
    """Writes batches, each in one transaction with the failpoint `point`."""

    def __init__(
        self,
        database: Database,
        point: str,
        *,
        actor: str,
        breakers: BreakerPolicy = OFF,
        on_ended: Callable[[int], None] = lambda number: None,
    ) -> None:
        """`on_ended` gets, after each commit, the number of step runs that it has ended."""
        self._database = database
        self._point = point
        self._actor = actor
        self._breakers = breakers
        self._on_ended = on_ended

    def write(self, transitions: Sequence[Transition], waits: Sequence[Wait] = ()) -> Applied:
        """Apply all transitions and record all waits.

        If PostgreSQL refuses a row, every member is written in a transaction of its own. A step run whose transition
        is refused ends FAILED and counts as refused.
        """
        try:
            return self._write(transitions, waits)
        except RowRefused as error:
            log.warning("%s: PostgreSQL refuses a row, so each is written alone: %s", self._point, error.message)
        result = Applied()
        for transition in transitions:
            result.add(self._write_alone(transition))
        for wait in waits:
            try:
                self._write((), [wait])
            except RowRefused as error:
                log.error("the wait of step run %s cannot be stored: %s", wait[0], error.message)
        return result

    def _write(self, transitions: Sequence[Transition], waits: Sequence[Wait] = ()) -> Applied:
        def work(unit: UnitOfWork) -> Applied:
            store = RunStore(unit, self._breakers)
            applied = store.apply(transitions)
            store.record_waits(waits)
            return applied

        applied: Applied = self._database.transact(self._point, work)
        self._on_ended(applied.ended)
        return applied

    def _write_alone(self, transition: Transition) -> Applied:
        try:
            return self._write([transition])
        except RowRefused as error:
            text = f"PostgreSQL refuses what was observed of this attempt: {error.message}"
        log.error("step run %s: %s", transition.step_run_id, text)
        failure = TransitionEvent(Event.FAILED, self._actor, reason=FailureReason.INTERNAL_ERROR, text=text)
        try:
            result = self._write([Transition(transition.step_run_id, [failure], transition.token)])
        except RowRefused as error:
            log.error("step run %s cannot even fail: %s", transition.step_run_id, error.message)
            return Applied(refused={transition.step_run_id: text})
        result.applied = []
        result.refused.setdefault(transition.step_run_id, text)
        return result
