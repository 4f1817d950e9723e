"""When to ask backends about their jobs. `lifecycle.verdict` and `lifecycle.retry` decide what the answers mean."""

from __future__ import annotations

from ccat_workflow_manager.db.fleet import FleetStore
from ccat_workflow_manager.db.orphans import OrphanStore
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.doorbell import Bell, Doorbell

_QUEUES_SECONDS = 60


class PollLoop:
    """Has every backend with live jobs asked for all of them once in an interval, by one worker at a time."""

    def __init__(self, database: Database, doorbell: Doorbell, follow_seconds: float) -> None:
        self._database = database
        self._doorbell = doorbell
        self._follow_seconds = follow_seconds

    def tick(self) -> None:
        with self._database.read() as unit:
            waiting = FleetStore(unit).waiting()
        for each in waiting:
            due = each.followed_seconds is None or each.followed_seconds >= self._follow_seconds
            if each.live and due and not each.retry_in and self._doorbell.waiting(Bell.FOLLOW, each.backend) == 0:
                self._doorbell.ring(Bell.FOLLOW, each.backend)


class QueuesLoop:
    """Has the queues of every backend that is served looked at, now and then: for hints and for operators."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def tick(self) -> None:
        with self._database.read() as unit:
            served = OrphanStore(unit).served()
        for backend in served:
            if self._doorbell.queues_are_due(backend, _QUEUES_SECONDS):
                self._doorbell.ring(Bell.QUEUES, backend)


class OrphansLoop:
    """Has the jobs of every backend that is served looked through for those that nobody waits for any more."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def tick(self) -> None:
        with self._database.read() as unit:
            served = OrphanStore(unit).served()
        for backend in served:
            if self._doorbell.waiting(Bell.REAP, backend) == 0:
                self._doorbell.ring(Bell.REAP, backend)
