"""Deletes finished runs, or what they need no longer: on request, and when they are as old as the settings say."""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Sequence
from uuid import UUID

from ccat_workflow_manager import failpoints, watchdog
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.deletions import DeletionStore, OldRun, RunSize, TakenDeletion
from ccat_workflow_manager.db.queries.runs import existing_runs
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.errors import Conflict, Fault, NotFound
from ccat_workflow_manager.execution.removal import OutOfTime, directory, remove
from ccat_workflow_manager.lifecycle.models import What
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)

_READY_AT_ONCE = 100
_PAGE = 500
_PAGES_PER_TICK = 20
_LEASE_SECONDS = 120.0
_WORK_SECONDS = 5.0
"""How long a worker removes files before it does other work."""
_RETRY_SECONDS = 300.0
_NAMED = 5


class Deletions:
    """The part of the manager: takes requests, and deletes the rows of runs whose files are removed."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def request(self, run_ids: Sequence[UUID], what: What, *, actor: str, dry_run: bool = False) -> list[RunSize]:
        """Delete these runs, or a part of each. Returns how large they are.

        Raises NotFound; Conflict for a run that is not over, or whose products another run uses.
        """

        def work(unit: UnitOfWork) -> list[RunSize]:
            store = DeletionStore(unit)
            store.lock(run_ids)
            _check(unit, store, run_ids, what)
            sizes = store.sizes(run_ids)
            store.request(run_ids, what, actor, f"is being deleted, requested by {actor}")
            audit.describe(after={"what": what})
            # What follows is not a part of the request that the audit records.
            unit.after_commit(lambda: contextvars.Context().run(self.advance))
            return sizes

        if not dry_run:
            return self._database.transact("commit.delete", work)
        with self._database.read() as unit:
            _check(unit, DeletionStore(unit), run_ids, what)
            return DeletionStore(unit).sizes(run_ids)

    def advance(self) -> None:
        """Have workers remove files, and delete the rows of the runs that have none left."""
        with self._database.begin("commit.deleted") as unit:
            store = DeletionStore(unit)
            store.end_without_files()
            backends, ready = store.waiting_backends(), store.ready_runs(_READY_AT_ONCE)
        for backend in backends:
            self._doorbell.ring(Bell.REMOVE, backend)
        for run_id in ready:
            delete_rows(self._database, run_id)


def _check(unit: UnitOfWork, store: DeletionStore, run_ids: Sequence[UUID], what: What) -> None:
    known = existing_runs(unit, run_ids)
    if missing := [each for each in run_ids if each not in known]:
        raise NotFound(f"there is no run {', '.join(map(str, missing[:_NAMED]))}")
    faults = [Fault(str(each), "is not over; cancel it first") for each in store.open_runs(run_ids)]
    if what is What.RUN:
        for run_id, others in store.users(run_ids).items():
            if left := [each for each in others if each not in run_ids]:
                names = ", ".join(map(str, left[:_NAMED]))
                faults.append(Fault(str(run_id), f"has products that other runs use: {names}"))
    if faults:
        raise Conflict(f"the run {faults[0].path} {faults[0].message}", faults)


def delete_rows(database: Database, run_id: UUID) -> None:
    """Delete the rows of a run in steps."""
    deleted = False
    while not deleted:
        with database.begin("commit.delete-rows") as unit:
            deleted = DeletionStore(unit).delete_rows(run_id)
    log.warning("the run %s was deleted", run_id)


class Retention:
    """Requests the deletion of what is older than the settings allow, a page of runs at a time."""

    def __init__(self, database: Database, days: dict[What, int]) -> None:
        """`days` is how long each part of a run is kept; 0: for ever."""
        self._database = database
        self._days = {what: number for what, number in days.items() if number > 0}
        self._after: dict[What, OldRun | None] = dict.fromkeys(self._days)

    def tick(self) -> None:
        for what, days in self._days.items():
            for _ in range(_PAGES_PER_TICK):
                if not self._request_page(what, days):
                    break

    def _request_page(self, what: What, days: int) -> bool:
        """Returns whether the next page is to be looked at now."""
        with self._database.read() as unit:
            found = DeletionStore(unit).old_runs(what, days, self._after[what], _PAGE)
        due = [each.id for each in found if each.due]
        if due:
            with self._database.begin("commit.retention") as unit:
                store = DeletionStore(unit)
                store.lock(due)
                used = store.users(due) if what is What.RUN else {}
                text = f"is being deleted: it is older than {days} days"
                chosen = store.request([each for each in due if each not in used], what, "retention", text)
            if chosen:
                log.warning("%s of %d runs are deleted: they are older than %d days", what, len(chosen), days)
        self._after[what] = found[-1] if len(found) == _PAGE else None
        return len(found) == _PAGE and not due


class Remover:
    """The part of a worker: removes the files that it sees."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context

    def remove(self, backend: str, seconds: float = _WORK_SECONDS) -> bool:
        """Remove files of deletions for some seconds. Returns whether there is more to do."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._context.database.begin("commit.take-removal") as unit:
                taken = DeletionStore(unit).take(backend, _LEASE_SECONDS)
            if taken is None:
                return False
            if not self._removed(taken, backend, deadline):
                return True
        return True

    def _removed(self, taken: TakenDeletion, backend: str, deadline: float) -> bool:
        """Returns whether all files of this deletion are removed, or cannot be removed now."""
        try:
            failpoints.around("files.remove", lambda: self._remove_files(taken, backend, deadline))
        except OutOfTime:
            self._postpone(taken, 0, None)
            return False
        except OSError as error:
            problem = f"{error.filename or taken.run_id} cannot be removed: {error.strerror}"
            log.warning("%s of the run %s: %s", taken.what, taken.run_id, problem)
            self._postpone(taken, _RETRY_SECONDS, problem)
            return True
        with self._context.database.begin("commit.removed") as unit:
            store = DeletionStore(unit)
            store.files_removed(taken, backend)
            ready = taken.run_id in store.ready_runs(_READY_AT_ONCE)
        if ready:
            delete_rows(self._context.database, taken.run_id)
        return True

    def _postpone(self, taken: TakenDeletion, seconds: float, problem: str | None) -> None:
        with self._context.database.begin("commit.removal-postponed") as unit:
            DeletionStore(unit).postpone(taken, seconds, problem)

    def _remove_files(self, taken: TakenDeletion, backend: str, deadline: float) -> None:
        base_dir = self._context.host.base_dir
        if taken.what == What.RUN:
            with directory(base_dir, taken.pipeline) as parent:
                if parent is not None:
                    remove(parent, str(taken.run_id), deadline, _progress)
            return
        with self._context.database.read() as unit:
            attempts = DeletionStore(unit).ended_attempts(taken.run_id, backend)
        for each in attempts:
            if taken.what == What.WORKSPACES:
                names = ["workspace", "scratch"]
            else:
                names = ["output.partial"] if each.completed else ["output", "output.partial"]
            place = (base_dir, taken.pipeline, str(taken.run_id), each.step, each.key, f"attempt-{each.number}")
            with directory(*place) as parent:
                for name in names if parent is not None else ():
                    remove(parent, name, deadline, _progress)  # type: ignore[arg-type]


def _progress() -> None:
    watchdog.report("removing files")
