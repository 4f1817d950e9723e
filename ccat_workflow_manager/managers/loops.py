"""What the loops of a manager do. Each has one duty, and any number of managers may run them at the same time."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID

from ccat_workflow_manager.db import figures, statistics
from ccat_workflow_manager.db.backends import BackendStore, Workload
from ccat_workflow_manager.db.leases import ExpiredLease, LeaseStore
from ccat_workflow_manager.db.partitions import maintain_audit, maintain_events
from ccat_workflow_manager.db.retries import try_lock_retries
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.work_items import launchable
from ccat_workflow_manager.db.workers import SILENT_SECONDS, WorkerStore
from ccat_workflow_manager.doorbell import MOST_ROWS, Bell, Doorbell
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event

log = logging.getLogger(__name__)

_SWEEP_AT_MOST = 1000
_QUEUES_SECONDS = 60


class Workloads:
    """What waits at each backend. A turn reads it once for all loops that ask."""

    def __init__(self, database: Database, seconds: float) -> None:
        """`seconds` is how old an answer may be."""
        self._database = database
        self._seconds = seconds
        self._lock = threading.Lock()
        self._until = 0.0
        self._workloads: list[Workload] = []

    def read(self) -> list[Workload]:
        with self._lock:
            if time.monotonic() >= self._until:
                with self._database.read() as unit:
                    self._workloads = BackendStore(unit).workloads()
                self._until = time.monotonic() + self._seconds
            return self._workloads


class RequeueSweep:
    """Rings again for work whose message was lost or whose back-off is over.

    Work that was waiting at the last tick and still is, although the queue of its backend is empty, has no message.
    Work that is new at this tick is left alone: its message is usually on its way.
    """

    def __init__(self, database: Database, doorbell: Doorbell, workloads: Workloads) -> None:
        self._database = database
        self._workloads = workloads
        self._doorbell = doorbell
        self._before: set[tuple[Bell, str]] = set()

    def tick(self) -> None:
        now = {(bell, each.backend) for each in self._workloads.read() for bell in _bells(each)}
        for bell, backend in sorted(now & self._before):
            if self._doorbell.waiting(bell, backend) == 0:
                self._ring(bell, backend)
        self._before = now

    def _ring(self, bell: Bell, backend: str) -> None:
        if bell is not Bell.LAUNCH:
            self._doorbell.ring(bell, backend)
            return
        with self._database.read() as unit:
            ready = launchable(unit, backend, MOST_ROWS)
        self._doorbell.ring_all(bell, {backend: ready})


def _bells(work: Workload) -> list[Bell]:
    bells = []
    if work.cancels:
        bells.append(Bell.CANCEL)
    if work.uncollected:
        bells.append(Bell.COLLECT)
    if work.ready and not work.retry_in:
        bells.append(Bell.LAUNCH)
    return bells


class LeaseSweep:
    """Releases step runs whose lease has expired, and skips those behind a step run that can never complete.

    A step run that ends one worker after the other fails.
    """

    def __init__(self, database: Database, doorbell: Doorbell, max_deaths: int = 5) -> None:
        self._database = database
        self._doorbell = doorbell
        self._max_deaths = max_deaths

    def tick(self) -> None:
        with self._database.begin("commit.silent") as unit:
            for worker in WorkerStore(unit).remove_silent(SILENT_SECONDS):
                log.warning("worker %s has been silent for %d s and is taken as gone", worker, SILENT_SECONDS)
            expired = LeaseStore(unit).any_expired(self._max_deaths)
            stuck = RunStore(unit).stuck_runs(_SWEEP_AT_MOST)
        if expired:
            self._release()
        if stuck:
            self._skip(stuck)

    def _release(self) -> None:
        with self._database.begin("commit.swept") as unit:
            expired = LeaseStore(unit).take_expired(_SWEEP_AT_MOST, self._max_deaths)
            done = RunStore(unit).apply([self._transition(lease) for lease in expired])
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, done.ready))
        if done.applied:
            log.warning("%d step runs taken back: their workers stopped answering", len(done.applied))

    def _transition(self, lease: ExpiredLease) -> Transition:
        if lease.deaths >= self._max_deaths:
            text = f"its workers died {lease.deaths} times (MAX_WORKER_DEATHS), the last one was {lease.owner}"
            event = TransitionEvent(Event.FAILED, "sweep", reason=FailureReason.INTERNAL_ERROR, text=text)
        else:
            event = TransitionEvent(Event.RELEASED, "sweep", text=f"worker {lease.owner} stopped answering")
        return Transition(lease.step_run_id, [event], lease.token)

    def _skip(self, run_ids: Sequence[UUID]) -> None:
        with self._database.begin("commit.swept") as unit:
            if not try_lock_retries(unit):
                return
            RunStore(unit).skip_orphaned_dependents(run_ids)
        log.warning("%d runs had step runs behind one that can never complete; these were skipped", len(run_ids))


class FiguresLoop:
    """Counts new events into the figures, a bounded number in one transaction, until there are no more."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tick(self) -> None:
        with self._database.read() as unit:
            more = figures.is_behind(unit)
        while more:
            more = self._fold()

    def _fold(self) -> bool:
        with self._database.begin("commit.figures") as unit:
            return figures.fold(unit)


class StatisticsLoop:
    """Keeps what PostgreSQL knows of tables that grow quickly, so that no plan is one for a small table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tick(self) -> None:
        with self._database.read() as unit:
            statistics.refresh(unit)


class HistoryLoop:
    """Makes the partitions of coming events and of the audit, and drops those and the figures that are too old."""

    def __init__(self, database: Database, events_months: int, audit_months: int) -> None:
        self._database = database
        self._kept = ((maintain_events, events_months), (maintain_audit, audit_months))

    def tick(self) -> None:
        for maintain, months in self._kept:
            for name in maintain(self._database, months):
                log.warning("%s was dropped: it is older than %d months", name, months)
        with self._database.begin("commit.figures-forgotten") as unit:
            figures.forget(unit)


class PollLoop:
    """Rings for every backend with live jobs that was not polled for `seconds`. One worker then polls them all."""

    def __init__(self, workloads: Workloads, doorbell: Doorbell, seconds: float) -> None:
        self._workloads = workloads
        self._doorbell = doorbell
        self._seconds = seconds

    def tick(self) -> None:
        for each in self._workloads.read():
            due = each.polled_seconds_ago is None or each.polled_seconds_ago >= self._seconds
            if each.live and due and not each.retry_in and self._doorbell.waiting(Bell.FOLLOW, each.backend) == 0:
                self._doorbell.ring(Bell.FOLLOW, each.backend)


class _ServedBackendsLoop(ABC):
    """Rings one bell for every backend that a worker serves, when it is due."""

    bell: ClassVar[Bell]

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def tick(self) -> None:
        with self._database.read() as unit:
            served = WorkerStore(unit).served_backends()
        for backend in served:
            if self._is_due(backend):
                self._doorbell.ring(self.bell, backend)

    @abstractmethod
    def _is_due(self, backend: str) -> bool: ...


class QueuesLoop(_ServedBackendsLoop):
    """Has the queues of every backend polled, for operators and for hints about definitions."""

    bell = Bell.QUEUES

    def _is_due(self, backend: str) -> bool:
        return self._doorbell.queues_are_due(backend, _QUEUES_SECONDS)


class OrphansLoop(_ServedBackendsLoop):
    """Has the jobs of every backend searched for orphans."""

    bell = Bell.REAP

    def _is_due(self, backend: str) -> bool:
        return self._doorbell.waiting(Bell.REAP, backend) == 0
