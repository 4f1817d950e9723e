"""Drains workers: a drained one finishes what it has, takes no new work and stays idle until it is resumed."""

from __future__ import annotations

import json
import logging

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.queries.service import one_worker
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import Conflict, NotFound
from ccat_workflow_manager.services.holds import ring_launchable

log = logging.getLogger(__name__)


class Workers:
    """The workers of one deployment."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def drain(self, worker: str, *, actor: str, why: str | None) -> str:
        """Have a worker take no new work. Returns the worker, as JSON."""
        with self._database.begin("commit.drain") as unit:
            if not WorkerStore(unit).drain(worker, actor, why):
                raise Conflict(f"the worker {_required(unit, worker)} is drained already")
            text = one_worker(unit, worker) or ""
            audit.describe(target=f"workers/{worker}", after=json.loads(text)["drained"])
        log.warning("the worker %s is drained by %s%s", worker, actor, f": {why}" if why else "")
        ring_launchable(self._database, self._doorbell)  # what it would have taken is for others
        return text

    def resume(self, worker: str) -> str:
        """Have a drained worker take work again. Returns the worker, as JSON."""
        with self._database.begin("commit.drain") as unit:
            before = one_worker(unit, worker)
            if not WorkerStore(unit).resume(worker):
                raise Conflict(f"the worker {_required(unit, worker)} is not drained")
            audit.describe(target=f"workers/{worker}", before=json.loads(before or "{}").get("drained"), after={})
            text = one_worker(unit, worker) or ""
        ring_launchable(self._database, self._doorbell)
        return text


def _required(unit: UnitOfWork, worker: str) -> str:
    """Raises NotFound unless there is such a worker."""
    if one_worker(unit, worker) is None:
        raise NotFound(f"there is no worker {worker}")
    return worker
