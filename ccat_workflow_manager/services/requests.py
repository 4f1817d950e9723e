"""What people and other services ask for: runs, and changes to them. API and dashboard come in here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from ccat_workflow_manager.db.creation import NewRun, create_runs
from ccat_workflow_manager.db.reopening import reopenable
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.db.views.runs import run_detail
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.errors import Conflict, Fault, Invalid, NotFound, RequestError
from ccat_workflow_manager.lifecycle.models import Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import RETRYABLE, Event
from ccat_workflow_manager.services.catalogue import Catalogue
from ccat_workflow_manager.services.combining import Combiner
from ccat_workflow_manager.services.run_planning import (
    PRIORITIES,
    RunPlanner,
    RunRequest,
    RunSubmission,
    submissions_of_bulk,
)

__all__ = ["BULK_LIMIT", "PRIORITIES", "Requests", "RunRequest"]

BULK_LIMIT = 5000


class Requests:
    """The requests of one deployment."""

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        catalogue: Catalogue,
        *,
        default_backend: str,
        known_backends: Callable[[], Iterable[str]],
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._catalogue = catalogue
        self._default_backend = default_backend
        self._known_backends = known_backends
        self._together: Combiner[RunSubmission, tuple[UUID, str | None]] = Combiner(self._create_together)

    # --- new runs --------------------------------------------------------------------------------------------------

    def create(self, request: RunRequest, *, actor: str, idempotency_key: str | None = None) -> tuple[UUID, bool]:
        """Create one run, or find the one that the same key and request made before: (its id, whether it is new)."""
        run_id, shown = self.create_shown(request, actor=actor, idempotency_key=idempotency_key)
        return run_id, shown is not None

    def create_shown(
        self, request: RunRequest, *, actor: str, idempotency_key: str | None = None
    ) -> tuple[UUID, str | None]:
        """The same: (its id, the run as JSON if it is new)."""
        return self._together.do(RunSubmission(request, actor, idempotency_key))

    def _create_together(self, wishes: Sequence[RunSubmission]) -> list[tuple[UUID, str | None] | RequestError]:
        """Create each of these runs for itself, in one transaction: for each what `create_shown` says."""
        # In the order of their keys, so that transactions with the same keys do not wait for each other in a circle.
        order = sorted(range(len(wishes)), key=lambda index: wishes[index].key or "")

        def work(unit: UnitOfWork) -> list[tuple[UUID, str | None] | RequestError]:
            outcomes: dict[int, tuple[UUID, str | None] | RequestError] = {}
            new: dict[int, NewRun] = {}
            known = self._known(unit, wishes)
            planner = self._planner(unit)
            for index in order:
                wish = wishes[index]
                try:
                    outcome = wish.made_before(known)
                    if outcome is None:
                        new[index] = planner.plan(wish)
                    else:
                        outcomes[index] = _found(unit, wish, outcome)
                except RequestError as error:
                    outcomes[index] = error
            if new:
                created = create_runs(unit, list(new.values()), shown=True)
                unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, created.ready))
                for index, run_id in zip(new, created.run_ids, strict=True):
                    if run_id is None:
                        outcomes[index] = self._made_meanwhile(unit, wishes[index])
                    else:
                        outcomes[index] = (run_id, created.shown[run_id])
            return [outcomes[index] for index in range(len(wishes))]

        return self._database.transact("commit.create", work)

    def _made_meanwhile(self, unit: UnitOfWork, wish: RunSubmission) -> tuple[UUID, str | None] | RequestError:
        """The run of this very wish, if an earlier try has made it without a word, or that of the same key."""
        try:
            made = wish.made_before(self._known(unit, [wish]))
        except RequestError as error:
            return error
        if made is None and (shown := run_detail(unit, wish.run_id)) is not None:
            return wish.run_id, shown
        if made is None:
            return Conflict("a run with this Idempotency-Key was made and removed at the same moment; try again")
        return _found(unit, wish, made)

    def create_many(self, requests: Sequence[RunRequest], *, actor: str) -> list[UUID]:
        """Create all runs or none."""
        return self.create_many_once(requests, actor=actor)[0]

    def create_many_once(
        self, requests: Sequence[RunRequest], *, actor: str, idempotency_key: str | None = None
    ) -> tuple[list[UUID], bool]:
        """The same, or find those that the same key and requests made before: (their ids, whether they are new)."""
        if len(requests) > BULK_LIMIT:
            raise Invalid(faults=[Fault("runs", f"holds {len(requests)} runs; at most {BULK_LIMIT} at a time")])
        if not requests:
            raise Invalid(faults=[Fault("runs", "is empty")])
        wishes = submissions_of_bulk(requests, actor, idempotency_key)
        with self._database.begin("commit.create-many") as unit:
            if (made := self._made_together(unit, wishes)) is not None:
                return made, False
            planner = self._planner(unit)
            new = [planner.plan(wish, f"runs[{index}]") for index, wish in enumerate(wishes)]
            created = create_runs(unit, new)
            if None in created.run_ids:  # another call with the key was quicker; with other runs it is refused
                if (made := self._made_together(unit, wishes)) is None:
                    raise Conflict("runs with this Idempotency-Key were made and removed at the same moment; try again")
                return made, False
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, created.ready))
        return [run_id for run_id in created.run_ids if run_id is not None], True

    def _made_together(self, unit: UnitOfWork, wishes: Sequence[RunSubmission]) -> list[UUID] | None:
        known = self._known(unit, wishes)
        made = [wish.made_before(known) for wish in wishes]
        found = [run_id for run_id in made if run_id is not None]
        if found and len(found) < len(made):
            raise Conflict("some of the runs that were made with this Idempotency-Key have been removed since")
        return found or None

    def _planner(self, unit: UnitOfWork) -> RunPlanner:
        return RunPlanner(
            unit, self._catalogue, default_backend=self._default_backend, known_backends=self._known_backends
        )

    @staticmethod
    def _known(unit: UnitOfWork, wishes: Sequence[RunSubmission]) -> dict[str, tuple[UUID, str]]:
        """By idempotency key, the id and the digest of what was asked for before."""
        keys = [wish.key for wish in wishes if wish.key is not None]
        if not keys:
            return {}
        found = unit.execute(
            "SELECT idempotency_key, id, request_hash FROM runs WHERE idempotency_key = ANY(:keys)", {"keys": keys}
        )
        return {row[0]: (row[1], row[2]) for row in found}

    # --- changes to runs ---------------------------------------------------------------------------------------------

    def cancel(self, run_ids: Sequence[UUID], *, actor: str, place: str = "") -> None:
        """Ask for these runs to be stopped. What has a job is CANCELLED when the job is known to be gone."""
        self._must_exist("runs", run_ids, place)

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

    def retry(self, run_ids: Sequence[UUID], *, actor: str, place: str = "") -> dict[UUID, int]:
        """Start again whatever did not complete in these runs: how many step runs that is, by run."""
        self._must_exist("runs", run_ids, place)

        def work(unit: UnitOfWork) -> dict[UUID, int]:
            done = self._reopen(unit, reopenable(unit, run_ids, None), actor)
            counted = "SELECT run_id, count(*) FROM step_runs WHERE id = ANY(:ids) GROUP BY run_id"
            return {row[0]: row[1] for row in unit.execute(counted, {"ids": done})} if done else {}

        return self._database.transact("commit.retry", work)

    def retry_step_runs(self, step_run_ids: Sequence[UUID], *, actor: str) -> int:
        """Start these again, and what was skipped only because of them."""
        found = self._must_exist("step_runs", step_run_ids)

        def work(unit: UnitOfWork) -> int:
            chosen = reopenable(unit, sorted(set(found.values())), set(step_run_ids))
            if not chosen:
                raise Conflict(
                    "a step run can be retried when it failed, was cancelled or was skipped,"
                    " and nothing before it is left undone"
                )
            return len(self._reopen(unit, chosen, actor))

        return self._database.transact("commit.retry-step-runs", work)

    def _reopen(self, unit: UnitOfWork, chosen: Sequence[UUID], actor: str) -> list[UUID]:
        note = [TransitionEvent(Event.RETRIED, actor, text=f"asked for by {actor}")]
        transitions = [Transition(step_run_id, note) for step_run_id in chosen]
        done: Applied = RunStore(unit).apply(transitions)
        unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, done.ready))
        return done.applied

    def pause(self, run_ids: Sequence[UUID], *, paused: bool) -> list[UUID]:
        """Hold back (or let go) what has not been launched yet: in which runs. There is nothing in a finished one."""
        self._must_exist("runs", run_ids)

        def work(unit: UnitOfWork) -> list[UUID]:
            # Step runs before runs, as everywhere: locks are taken in one order, or writers wait in a circle.
            # Whoever has the step runs of a run keeps it from being finished, and from being retried.
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

    def _must_exist(self, table: str, ids: Sequence[UUID], place: str = "") -> dict[UUID, UUID]:
        """What each of these belongs to; NotFound, with the places in the list `place` if it has a name."""
        column = "id" if table == "runs" else "run_id"
        with self._database.read() as unit:
            rows = unit.execute(f"SELECT id, {column} FROM {table} WHERE id = ANY(:ids)", {"ids": list(ids)})
            found = {row[0]: row[1] for row in rows}
        missing = [(index, each) for index, each in enumerate(ids) if each not in found]
        if missing:
            what = f"there is no {table[:-1].replace('_', ' ')}"
            faults = [Fault(f"{place}[{index}]", f"{what} {each}") for index, each in missing[:100] if place]
            raise NotFound(f"{what} {', '.join(str(each) for _, each in missing[:5])}", faults)
        return found

    def _ring_each(self, bell: Bell, backends: Iterable[str]) -> None:
        for backend in sorted(backends):
            self._doorbell.ring(bell, backend)


def _found(unit: UnitOfWork, wish: RunSubmission, run_id: UUID) -> tuple[UUID, str | None]:
    """A run that is there already; to the one whose wish has made it, in a try that got no answer, it is new."""
    return run_id, run_detail(unit, run_id) if run_id == wish.run_id else None
