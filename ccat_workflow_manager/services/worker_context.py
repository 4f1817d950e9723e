"""What every worker service needs: the stores, the bell, the site it stands at, and the leases it holds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from ccat_workflow_manager.db.fleet import FleetStore
from ccat_workflow_manager.db.reading import LeaseStore
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import BackendError, CancelRequested, LeaseLost
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs
from ccat_workflow_manager.execution.runtime import BY_BACKEND, Runtime
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.breaker import BreakerPolicy
from ccat_workflow_manager.lifecycle.models import RetryPolicy, WorkItem
from ccat_workflow_manager.services.asking import asking
from ccat_workflow_manager.services.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Site:
    """Where this worker stands: its filesystem and its container runtime."""

    base_dir: str
    sif_cache_dir: str
    runtime: Runtime
    log_limit_mb: float
    exit_record_wait_seconds: float

    def runtime_of(self, backend: HPCBackend) -> Runtime:
        """What runs the images of the steps that go there."""
        return BY_BACKEND if backend.runs_images else self.runtime

    def dirs(self, item: WorkItem) -> AttemptDirs:
        run = item.run
        return attempt_dirs(self.base_dir, run.pipeline, str(run.run_id), item.step, item.key, item.attempt)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The surroundings of one worker process."""

    worker: str
    database: Database
    doorbell: Doorbell
    catalogue: Catalogue
    site: Site
    backend: Callable[[str], HPCBackend]
    lease_seconds: float
    grace_seconds: float
    cancel_confirm_seconds: float
    retry_backend_seconds: float
    breakers: BreakerPolicy

    def policies(self, items: Sequence[WorkItem]) -> dict[UUID, RetryPolicy]:
        """The retry policy of each of these step runs."""
        if not items:
            return {}
        with self.database.read() as unit:
            return self.catalogue.policies(unit, items)

    def jitter(self) -> float:
        return random.random()

    def usable(self, name: str) -> HPCBackend | None:
        """The backend, or None if it cannot be set up here and now, which operators are told."""
        try:
            with asking(name):
                return self.backend(name)
        except BackendError as error:
            self.note_problem(name, error)
            return None

    def note_problem(
        self, backend: str, error: BackendError, waits: Sequence[tuple[UUID, int, str | None, bool]] = ()
    ) -> None:
        """Tell operators, and everybody who would ask again at once, that the backend cannot be used now.

        `waits` are the step runs that wait for it, as `RunStore.note_waits` takes them.
        """
        with self.database.begin("commit.problem") as unit:
            FleetStore(unit).problem(backend, error.message, self.retry_backend_seconds)
            RunStore(unit).note_waits(waits)

    def note_well(self, backend: str) -> None:
        with self.database.begin("commit.well") as unit:
            FleetStore(unit).well(backend)


class Leases:
    """The leases of the step runs that a task has in its hands.

    They are renewed by the work itself as it gets on, never by a clock beside it: a worker that hangs loses them.
    """

    def __init__(self, worker_context: WorkerContext, items: Sequence[WorkItem]) -> None:
        self._context = worker_context
        self._held: dict[UUID, int] = {item.step_run_id: item.token for item in items}
        self._lost: set[UUID] = set()
        self._cancelled: set[UUID] = {item.step_run_id for item in items if item.cancel_requested}
        self._renewed = time.monotonic()

    def progress_for(self, item: WorkItem) -> Callable[[], None]:
        """A callback for long work on one item: renews what is due; raises when there is no reason to go on."""
        return lambda: self.check(item)

    def check(self, item: WorkItem) -> None:
        if time.monotonic() - self._renewed > self._context.lease_seconds / 4:
            self.renew()
        if item.step_run_id in self._lost:
            raise LeaseLost
        if item.step_run_id in self._cancelled:
            raise CancelRequested

    def renew(self, silent_seconds: float = 0) -> None:
        """Hold everything for another lease from now; for longer, if the work will not report progress for so long."""
        lease = self._context.lease_seconds
        with self._context.database.begin("commit.lease") as unit:
            renewal = LeaseStore(unit).renew(self._held, self._context.worker, max(lease, silent_seconds + lease / 4))
        self._lost |= self._held.keys() - renewal.kept
        self._cancelled |= renewal.cancel_requested
        self._held = {each: token for each, token in self._held.items() if each in renewal.kept}
        self._renewed = time.monotonic()

    def let_go(self, item: WorkItem) -> None:
        self._held.pop(item.step_run_id, None)

    @property
    def age(self) -> float:
        """Seconds since the leases were last renewed."""
        return time.monotonic() - self._renewed
