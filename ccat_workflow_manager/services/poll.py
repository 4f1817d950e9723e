"""Polling: which jobs a backend is asked for, and when. `StatusUpdater` asks."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.work_items import live_items, live_items_by_job
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.services.status_updater import StatusUpdater
from ccat_workflow_manager.services.worker_context import WorkerContext

PAGE = 1000
_LEASES = 2
"""Leases that a worker may be silent while it polls a backend, before another one polls. Polling twice does no harm."""
_LONGEST_GAP = 1 / 3
"""Largest share of the grace of an unknown job that one gap between two polls uses up. The rest does not count."""


class Poller:
    """Keeps the step runs of live jobs up to date."""

    def __init__(self, context: WorkerContext, updater: StatusUpdater) -> None:
        self._context = context
        self._updater = updater

    def poll_all(self, backend_name: str) -> None:
        """Poll every live job of a backend, unless another worker is doing so."""
        patience = _LEASES * self._context.lease_seconds
        with self._context.database.begin("commit.take-follow") as unit:
            backends = BackendStore(unit)
            mine = backends.acquire_poll_lease(backend_name, patience)
            if mine:
                backends.exclude_unpolled_time(backend_name, self._context.grace_seconds * _LONGEST_GAP)
        if not mine:
            return
        after: UUID | None = None
        answers = False
        try:
            while True:
                with self._context.database.read() as unit:
                    items = live_items(unit, backend_name, after, PAGE)
                answers = self._update(backend_name, items)
                if not items or not answers:
                    break
                after = items[-1].step_run_id
                if len(items) == PAGE:
                    with self._context.database.begin("commit.go-on-following") as unit:
                        BackendStore(unit).extend_poll_lease(backend_name, patience)
        finally:
            with self._context.database.begin("commit.followed") as unit:
                BackendStore(unit).release_poll_lease(backend_name, answered=answers and after is not None)

    def poll_jobs(self, backend_name: str, job_ids: Sequence[str]) -> None:
        """Poll the jobs whose ends the backend has reported."""
        with self._context.database.read() as unit:
            items = live_items_by_job(unit, backend_name, job_ids)
        self._update(backend_name, items)

    def _update(self, backend_name: str, items: Sequence[WorkItem]) -> bool:
        """Returns False if the backend could not be asked."""
        if not items:
            return True
        backend = self._context.usable_backend(backend_name)
        return backend is not None and self._updater.update(backend, items)
