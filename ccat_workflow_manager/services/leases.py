"""The leases of the step runs that one task works on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from uuid import UUID

from ccat_workflow_manager import watchdog
from ccat_workflow_manager.db.leases import LeaseStore
from ccat_workflow_manager.errors import CancelRequested, LeaseLost
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.services.worker_context import WorkerContext


class Leases:
    """Renews the leases of some step runs as the work on them advances.

    No timer renews them: a worker that hangs loses its leases, and another one takes the work over.
    """

    def __init__(self, context: WorkerContext, items: Sequence[WorkItem]) -> None:
        self._context = context
        self._tokens: dict[UUID, int] = {item.step_run_id: item.token for item in items}
        self._lost: set[UUID] = set()
        self._cancelled: set[UUID] = {item.step_run_id for item in items if item.cancel_requested}
        self._renewed = time.monotonic()

    def add(self, items: Sequence[WorkItem]) -> None:
        """Hold the leases of these step runs too."""
        self._tokens |= {item.step_run_id: item.token for item in items}
        self._lost -= {item.step_run_id for item in items}
        self._cancelled -= {item.step_run_id for item in items}
        self._cancelled |= {item.step_run_id for item in items if item.cancel_requested}

    def drop(self, item: WorkItem) -> None:
        """The work on this step run is done."""
        self._tokens.pop(item.step_run_id, None)

    def release(self) -> None:
        """Give up the leases that are left, so that another worker need not wait until they expire."""
        if self._tokens:
            with self._context.database.begin("commit.lease") as unit:
                LeaseStore(unit).release(self._tokens, self._context.worker)

    def progress_for(self, item: WorkItem) -> Callable[[], None]:
        """A callback for long work on one item, which calls `check`."""
        return lambda: self.check(item)

    def check(self, item: WorkItem) -> None:
        """Renew the leases if that is due. Raises LeaseLost or CancelRequested if the work on `item` is to stop."""
        watchdog.report(f"{item.step}/{item.key} of run {item.run.run_id}")
        if self.due:
            self.renew()
        if item.step_run_id in self._lost:
            raise LeaseLost
        if item.step_run_id in self._cancelled:
            raise CancelRequested

    def renew(self, silent_seconds: float = 0) -> None:
        """Extend all leases from now on, by more if the work will report no progress for `silent_seconds`."""
        lease = self._context.lease_seconds
        with self._context.database.begin("commit.lease") as unit:
            renewal = LeaseStore(unit).renew(self._tokens, self._context.worker, max(lease, silent_seconds + lease / 4))
        self._lost |= self._tokens.keys() - renewal.kept
        self._cancelled |= renewal.cancel_requested
        self._tokens = {each: token for each, token in self._tokens.items() if each in renewal.kept}
        self._renewed = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether a quarter of the lease has passed since the last renewal."""
        return time.monotonic() - self._renewed > self._context.lease_seconds / 4

    @property
    def seconds_left(self) -> float:
        """How long the leases last yet, at least."""
        return self._context.lease_seconds - (time.monotonic() - self._renewed)
