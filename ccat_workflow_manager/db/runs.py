"""The one writer of statuses: `RunStore.apply`.

A batch of transitions becomes one transaction: statuses, attempt facts, event rows, products, the counters of the
runs and what the ends of steps mean for the steps behind them. Every writer locks rows in one order (step runs by id,
which is also topological; then the edges; then the step runs behind them; then breakers; last the runs by id), so
that writers never wait for each other in a circle.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db import statements as sql
from ccat_workflow_manager.db.breakers import BreakerStore
from ccat_workflow_manager.db.reading import load_items
from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.db.transitions import Batch, Cause, LockedRow, delta_records, validate_transitions
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.breaker import OFF, BreakerPolicy
from ccat_workflow_manager.lifecycle.models import Lease, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event, Status

DEPENDENCIES = "dependencies"
"""The actor of what follows from other step runs."""


@dataclass(slots=True)
class Applied:
    """What a write did."""

    applied: list[UUID] = field(default_factory=list)
    refused: dict[UUID, str] = field(default_factory=dict)
    ready: dict[str, list[UUID]] = field(default_factory=dict)
    """By backend: step runs that may be claimed from now on."""
    finished_runs: list[UUID] = field(default_factory=list)
    breaker_opened: bool = False


class RunStore:
    """Reads and writes runs inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork, breakers: BreakerPolicy = OFF) -> None:
        """`breakers` says how failures count; without it they do not, but successes do all the same."""
        self.unit = unit
        self._breakers = BreakerStore(unit, breakers)

    # --- the writer ------------------------------------------------------------------------------------------------

    def apply(self, transitions: Sequence[Transition]) -> Applied:
        """Apply the transitions that are still legal. The others are refused with a reason and change nothing."""
        if not transitions:
            return Applied()
        ids = [transition.step_run_id for transition in transitions]
        rows = {row.id: row for row in self._locked(sql.LOCK_STEP_RUNS, {"ids": ids})}
        return self._write(rows, transitions)

    def claim(
        self, backend: str, worker: str, limit: int, lease_seconds: float, *, probes: bool = True
    ) -> list[WorkItem]:
        """Take up to `limit` step runs that are ready for this backend, the most urgent first.

        With `probes` also one for each open breaker that is due for one.
        """
        rows = {row.id: row for row in self._locked(sql.LOCK_READY, {"backend": backend, "limit": limit})}
        if probes:
            tried = {row.id: row for row in self._locked(sql.LOCK_PROBES, {"backend": backend})}
            self._breakers.try_again(list(tried), worker)
            rows |= tried
        if not rows:
            return []
        note, lease = [TransitionEvent(Event.CLAIMED, actor=worker)], Lease(worker, lease_seconds)
        done = self._write(rows, [Transition(step_run_id, note, lease=lease) for step_run_id in rows])
        return load_items(self.unit, done.applied)

    def _locked(self, statement: str, parameters: dict[str, Any]) -> list[LockedRow]:
        return [_locked_row(row) for row in self.unit.execute(statement, parameters).all()]

    def _write(
        self, rows: dict[UUID, LockedRow], transitions: Sequence[Transition], cancelled_runs: Collection[UUID] = ()
    ) -> Applied:
        batch, applied, refused = validate_transitions(rows, transitions)
        batch.cancelled.update(cancelled_runs)
        result = Applied(applied, refused)
        if not batch.rows and not batch.cancelled:
            return result
        if batch.rows:
            self._write_rows(batch)
        if batch.completed:
            self._release_dependents(batch.completed, result)
        if batch.blocked:
            behind = self._skip_behind(batch.blocked, sql.LOCK_BLOCKED)
            batch.blocked = behind.blocked
            for run_id, delta in behind.deltas.items():
                batch.deltas.setdefault(run_id, Counter()).update(delta)
        for row in rows.values():
            if row.status is Status.PENDING and row.unmet == 0:
                result.ready.setdefault(row.backend, []).append(row.id)
        if batch.ways or any(row.breaker for row in batch.succeeded):
            for backend, ids in self._breakers.record(batch.ways, [row.id for row in batch.succeeded]).items():
                result.ready.setdefault(backend, []).extend(ids)
            result.breaker_opened = self._breakers.opened
        result.finished_runs += self._count(batch)
        if batch.blocked or batch.reopened:
            result.finished_runs += self._look_again(batch)
        return result

    def _count(self, batch: Batch) -> list[UUID]:
        """Bring the rows of the runs up to date: those that are finished by now."""
        deltas = delta_records(batch)
        found = self.unit.execute(sql.COUNT_RUNS, {"deltas": json_list(deltas)}).all() if deltas else []
        return [run_id for run_id, _, finished in found if finished]

    def _write_rows(self, batch: Batch) -> None:
        self.unit.execute(sql.WRITE, {"rows": json_list(batch.rows), "events": json_list(batch.events)})
        if batch.products:
            self.unit.execute(sql.INSERT_PRODUCTS, {"products": json_list(batch.products)})
        if batch.parents:
            self.unit.execute(sql.INSERT_PARENTS, {"parents": json_list(batch.parents)})

    # --- what the end of a step means for those behind it ------------------------------------------------------------

    def _release_dependents(self, completed: list[LockedRow], result: Applied) -> None:
        """Count down the dependencies of what waits for these, and note what has become ready."""
        per_step = Counter((row.run_id, row.position) for row in completed)
        done = [{"run_id": str(r), "position": p, "n": n} for (r, p), n in sorted(per_step.items())]
        same_key: list[dict[str, Any]] = []
        whole: list[dict[str, Any]] = []
        keys: dict[tuple[UUID, int], list[str]] = defaultdict(list)
        for row in completed:
            keys[row.run_id, row.position].append(row.key)
        for run_id, position, remaining, by_key, by_all in self.unit.execute(sql.COUNT_DOWN, {"done": json_list(done)}):
            for downstream in by_key:
                same_key += [
                    {"run_id": str(run_id), "position": downstream, "key": key} for key in keys[run_id, position]
                ]
            if remaining == 0:
                whole += [{"run_id": str(run_id), "position": downstream} for downstream in by_all]
        for statement, met in ((sql.RELEASE_SAME_KEY, same_key), (sql.RELEASE_WHOLE_STEP, whole)):
            if met:
                released = self.unit.execute(statement, {"met": json_list(met)}).all()
                for step_run_id, backend, unmet, status, held in released:
                    if unmet == 0 and status == Status.PENDING and not held:
                        result.ready.setdefault(backend, []).append(step_run_id)

    def _skip_behind(self, causes: Sequence[Cause], lock: str) -> Batch:
        """Skip what can no longer run because of these ends, and so on down the DAG: what was written.

        Its `blocked` are these ends, and all that came of them.
        """
        run_ids = list({row.run_id for row, _, _ in causes})
        edges = {(r[0], r[1]): (r[3], r[4]) for r in self.unit.execute(sql.EDGES, {"run_ids": run_ids})}
        behind, done = Batch(blocked=list(causes)), 0
        while blocked := behind.blocked[done:]:
            done = len(behind.blocked)
            because: dict[tuple[UUID, int, str | None], Cause] = {}
            for cause in blocked:
                row = cause[0]
                by_key, by_all = edges[row.run_id, row.position]
                for position in by_key:
                    because.setdefault((row.run_id, position, row.key), cause)
                for position in by_all:
                    because.setdefault((row.run_id, position, None), cause)
            records = [
                {"run_id": str(run_id), "position": position, "key": key, "whole": key is None}
                for run_id, position, key in because
            ]
            for row in self._locked(lock, {"blocked": json_list(records)}) if records else []:
                cause = because.get((row.run_id, row.position, row.key)) or because[row.run_id, row.position, None]
                behind.add(row, Transition(row.id, [_skip_note(*cause)]))
            if behind.rows:
                self._write_rows(behind)
                behind.rows, behind.events = [], []
        return behind

    def _look_again(self, batch: Batch) -> list[UUID]:
        """Skip what was opened again while something before it was ending: the runs that are finished by that.

        A retry and an end that are written at the same time do not see each other's step runs. Both come to the row of
        their run, where one waits for the other: from here on whoever is second sees all. What is locked by somebody
        who may be waiting for that run is left to the sweep.
        """
        causes = [*batch.blocked, *(self._left_behind(list(batch.reopened)) if batch.reopened else [])]
        return self._count(self._skip_behind(causes, sql.LOCK_BLOCKED_NOW)) if causes else []

    def _left_behind(self, run_ids: Sequence[UUID]) -> list[Cause]:
        """Of these runs, what has ended without completing though something is still waiting for it."""
        found = self.unit.execute(sql.LEFT_BEHIND, {"run_ids": list(run_ids)}).all()
        return [(_locked_row(row[1:]), Status(row[7]), row[0]) for row in found]

    def skip_orphaned_dependents(self, run_ids: Sequence[UUID]) -> list[UUID]:
        """Skip what waits in these runs for what has ended without completing: the runs that are finished by that.

        Only while nobody retries (`reopening.try_lock_retries`).
        """
        causes = self._left_behind(run_ids)
        return self._count(self._skip_behind(causes, sql.LOCK_BLOCKED)) if causes else []

    def note_waits(self, news: Sequence[tuple[UUID, int, str | None, bool]]) -> None:
        """Why jobs wait, and of which nothing is known: (id, token, reason, unknown). No status changes."""
        if not news:
            return
        ids, tokens, reasons, unknown = zip(*news, strict=True)
        self.unit.execute(
            """
            UPDATE step_runs s SET waiting_for = n.reason,
              unknown_since = CASE WHEN n.unknown THEN COALESCE(s.unknown_since, now()) END
            FROM (
              SELECT s.id, n.reason, n.unknown FROM step_runs s
              JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS bigint[]), CAST(:reasons AS text[]),
                CAST(:unknown AS boolean[])) AS n(id, token, reason, unknown) ON n.id = s.id AND n.token = s.token
              WHERE s.finished_at IS NULL ORDER BY s.id FOR NO KEY UPDATE OF s
            ) n WHERE s.id = n.id
            """,
            {"ids": list(ids), "tokens": list(tokens), "reasons": list(reasons), "unknown": list(unknown)},
        )

    # --- requests of people ------------------------------------------------------------------------------------------

    def request_cancel(self, rows: dict[UUID, LockedRow], actor: str, runs: Collection[UUID] = ()) -> Applied:
        """Note the wish on every row, and on these runs; what nothing has been started for is cancelled at once."""
        if not rows:
            return Applied()
        self.unit.execute(
            "UPDATE step_runs SET cancel_requested_at = now(), cancel_requested_by = :actor, withdrawn = false"
            " WHERE id = ANY(:ids) AND (cancel_requested_at IS NULL OR withdrawn)",
            {"ids": list(rows), "actor": actor},
        )
        note = [
            TransitionEvent(Event.CANCELLED, actor=actor, reason=FailureReason.CANCELLED, text=f"cancelled by {actor}")
        ]
        untouched = [row for row in rows.values() if row.status is Status.PENDING and row.claims == 0]
        return self._write({row.id: row for row in untouched}, [Transition(row.id, note) for row in untouched], runs)

    def lock_cancellable(self, run_ids: Iterable[UUID]) -> dict[UUID, LockedRow]:
        found = self._locked(sql.LOCK_CANCELLABLE_OF_RUNS, {"run_ids": list(run_ids)})
        return {row.id: row for row in found}

    def lock(self, step_run_ids: Iterable[UUID]) -> dict[UUID, LockedRow]:
        return {row.id: row for row in self._locked(sql.LOCK_STEP_RUNS, {"ids": list(step_run_ids)})}


def _locked_row(r: Sequence[Any]) -> LockedRow:
    return LockedRow(r[0], r[1], r[2], r[3], r[4], r[5], Status(r[6]), *r[7:])


def _skip_note(row: LockedRow, status: Status, why: str) -> TransitionEvent:
    cancelled = status is Status.CANCELLED or why == FailureReason.UPSTREAM_CANCELLED
    reason = FailureReason.UPSTREAM_CANCELLED if cancelled else FailureReason.UPSTREAM_FAILED
    return TransitionEvent(
        Event.SKIPPED, actor=DEPENDENCIES, reason=reason, text=f"{row.step}/{row.key} is {status}: {why}"
    )
