"""Changes that users request: cancel, retry, pause and resume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from ccat_workflow_manager.db.reopening import reopenable
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.errors import Conflict, Fault, NotFound
from ccat_workflow_manager.lifecycle.models import Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import RETRYABLE, Event


class Requests:
    """Changes runs and step runs of one deployment."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def cancel(self, run_ids: Sequence[UUID], *, actor: str, path: str = "") -> None:
        """Request the cancellation of these runs. A step run is CANCELLED once its job is known to be gone."""
        self._must_exist("runs", run_ids, path)

        def work(unit: UnitOfWork) -> None:
            store = RunStore(unit)
            rows = store.lock_cancellable(run_ids)
            store.request_cancel(rows, actor, {row.run_id for row in rows.values()})
            backends = {row.backend for row in rows.values()}
            unit.after_commit(lambda: self._ring_each(Bell.CANCEL, backends))

        self._database.transact("commit.cancel", work)

    def cancel_step_runs(self, step_run_ids: Sequence[UUID], *, actor: str) -> None:
        self._must_exist("step_runs", step_run_ids)

        def work(unit: UnitOfWork) -> None:
            store = RunStore(unit)
            rows = {row.id: row for row in store.lock(step_run_ids).values() if row.status not in RETRYABLE}
            store.request_cancel(rows, actor)
            backends = {row.backend for row in rows.values()}
            unit.after_commit(lambda: self._ring_each(Bell.CANCEL, backends))

        self._database.transact("commit.cancel-step-runs", work)

    def retry(self, run_ids: Sequence[UUID], *, actor: str, path: str = "") -> dict[UUID, int]:
        """Retry what did not complete in these runs. Returns the number of retried step runs by run."""
        self._must_exist("runs", run_ids, path)

        def work(unit: UnitOfWork) -> dict[UUID, int]:
            done = self._reopen(unit, reopenable(unit, run_ids, None), actor)
            counted = "SELECT run_id, count(*) FROM step_runs WHERE id = ANY(:ids) GROUP BY run_id"
            return {row[0]: row[1] for row in unit.execute(counted, {"ids": done})} if done else {}

        return self._database.transact("commit.retry", work)

    def retry_step_runs(self, step_run_ids: Sequence[UUID], *, actor: str) -> int:
        """Retry these step runs, and those that were skipped only because of them. Returns how many."""
        found = self._must_exist("step_runs", step_run_ids)

        def work(unit: UnitOfWork) -> int:
            chosen = reopenable(unit, sorted(set(found.values())), set(step_run_ids))
            if not chosen:
                raise Conflict(
                    "only a step run that failed, was cancelled or was skipped can be retried,"
                    " after the steps before it have completed"
                )
            return len(self._reopen(unit, chosen, actor))

        return self._database.transact("commit.retry-step-runs", work)

    def _reopen(self, unit: UnitOfWork, chosen: Sequence[UUID], actor: str) -> list[UUID]:
        event = TransitionEvent(Event.RETRIED, actor, text=f"requested by {actor}")
        transitions = [Transition(step_run_id, [event]) for step_run_id in chosen]
        done: Applied = RunStore(unit).apply(transitions)
        unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, done.ready))
        return done.applied

    def pause(self, run_ids: Sequence[UUID], *, paused: bool) -> list[UUID]:
        """Pause or resume runs: step runs that are not launched yet are held back or released.

        Returns the runs that were changed. A finished run cannot be paused.
        """
        self._must_exist("runs", run_ids)

        def work(unit: UnitOfWork) -> list[UUID]:
            # Step runs before runs, the lock order of all writers: it excludes deadlocks. While the step runs are
            # locked, their run can neither finish nor be retried.
            unit.execute(
                "SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE run_id = ANY(:ids)"
                " ORDER BY id FOR NO KEY UPDATE) AS locked",
                all_of_them,
            )
            found = unit.execute(
                "SELECT id FROM runs WHERE id = ANY(:ids) AND (finished_at IS NULL OR NOT :paused)",
                {**all_of_them, "paused": paused},
            )
            chosen = [row[0] for row in found]
            rows = unit.execute(
                "UPDATE step_runs SET held = :paused WHERE run_id = ANY(:ids) AND held <> :paused"
                " RETURNING id, backend, unmet, status",
                {"paused": paused, "ids": chosen},
            ).all()
            unit.execute(
                "UPDATE runs SET paused = :paused WHERE id IN"
                " (SELECT id FROM runs WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE)",
                {"paused": paused, "ids": chosen},
            )
            ready: dict[str, list[UUID]] = {}
            for step_run_id, backend, unmet, status in rows:
                if not paused and unmet == 0 and status == "PENDING":
                    ready.setdefault(backend, []).append(step_run_id)
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, ready))
            return chosen

        all_of_them = {"ids": list(run_ids)}
        return self._database.transact("commit.pause", work)

    def _must_exist(self, table: str, ids: Sequence[UUID], path: str = "") -> dict[UUID, UUID]:
        """Returns the run of each id. Raises NotFound; `path` is the list of the request that holds the ids."""
        column = "id" if table == "runs" else "run_id"
        with self._database.read() as unit:
            rows = unit.execute(f"SELECT id, {column} FROM {table} WHERE id = ANY(:ids)", {"ids": list(ids)})
            found = {row[0]: row[1] for row in rows}
        missing = [(index, each) for index, each in enumerate(ids) if each not in found]
        if missing:
            what = f"there is no {table[:-1].replace('_', ' ')}"
            faults = [Fault(f"{path}[{index}]", f"{what} {each}") for index, each in missing[:100] if path]
            raise NotFound(f"{what} {', '.join(str(each) for _, each in missing[:5])}", faults)
        return found

    def _ring_each(self, bell: Bell, backends: Iterable[str]) -> None:
        for backend in sorted(backends):
            self._doorbell.ring(bell, backend)
