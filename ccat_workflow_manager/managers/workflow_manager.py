"""Dispatch and sweep: whatever nobody answered is rung for again, whatever a dead worker left is given back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from ccat_workflow_manager.db.fleet import FleetStore, Waiting
from ccat_workflow_manager.db.reading import LeaseStore, stuck_runs
from ccat_workflow_manager.db.reopening import try_lock_retries
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.doorbell import BATCH, Bell, Doorbell
from ccat_workflow_manager.lifecycle.models import Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event

log = logging.getLogger(__name__)

_RING_AT_MOST = 10 * BATCH
_SWEEP_AT_ONCE = 1000
_SILENT_WORKER_SECONDS = 90


class RequeueSweep:
    """Rings for rows that wait although nobody has been called for them.

    A row is left alone for one tick: most are on their way to a worker already. Only when the queue is empty and there
    was something to do the last time as well has a message been lost, or a back-off come to its end.
    """

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell
        self._before: set[tuple[Bell, str]] = set()

    def tick(self) -> None:
        with self._database.read() as unit:
            waiting = FleetStore(unit).waiting()
        open_now = {key for each in waiting for key in _wanted(each)}
        for bell, backend in sorted(open_now & self._before):
            if self._doorbell.waiting(bell, backend) == 0:
                self._ring(bell, backend)
        self._before = open_now

    def _ring(self, bell: Bell, backend: str) -> None:
        if bell is not Bell.LAUNCH:
            self._doorbell.ring(bell, backend)
            return
        with self._database.read() as unit:
            ready = FleetStore(unit).ready(backend, _RING_AT_MOST)
        if ready:
            self._doorbell.ring(bell, backend, ready)


def _wanted(waiting: Waiting) -> list[tuple[Bell, str]]:
    wanted = []
    if waiting.cancels:
        wanted.append((Bell.CANCEL, waiting.backend))
    if waiting.uncollected:
        wanted.append((Bell.COLLECT, waiting.backend))
    if waiting.ready and not waiting.retry_in:
        wanted.append((Bell.LAUNCH, waiting.backend))
    return wanted


class LeaseSweep:
    """Gives back what was claimed by a worker that is no more, and skips what waits for something that is over."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def tick(self) -> None:
        with self._database.begin("commit.silent") as unit:
            for worker in FleetStore(unit).forget_silent(_SILENT_WORKER_SECONDS):
                log.warning("worker %s has been silent for %d s and is taken as gone", worker, _SILENT_WORKER_SECONDS)
            expired = LeaseStore(unit).expired_staging(1)
            stuck = stuck_runs(unit, _SWEEP_AT_ONCE)
        if expired:
            self._give_back()
        if stuck:
            self._skip(stuck)

    def _give_back(self) -> None:
        with self._database.begin("commit.swept") as unit:
            transitions = [
                Transition(
                    step_run_id,
                    [TransitionEvent(Event.RELEASED, "sweep", text=f"worker {owner} stopped answering")],
                    token,
                )
                for step_run_id, token, owner in LeaseStore(unit).expired_staging(_SWEEP_AT_ONCE)
            ]
            done = RunStore(unit).apply(transitions)
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, done.ready))
        if done.applied:
            log.warning("%d step runs given back: their workers stopped answering", len(done.applied))

    def _skip(self, run_ids: Sequence[UUID]) -> None:
        with self._database.begin("commit.swept") as unit:
            if not try_lock_retries(unit):
                return
            RunStore(unit).skip_orphaned_dependents(run_ids)
        log.warning("%d runs were waiting for something that is over; what waited was skipped", len(run_ids))
