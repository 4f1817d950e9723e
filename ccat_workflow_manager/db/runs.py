"""The one writer of statuses: `RunStore`.

A batch of transitions is one transaction: statuses, facts of attempts, events, products, the counters of the runs, and
what the ends of steps mean for the steps behind them. Every writer locks rows in one order, so that no two of them wait
for each other: step runs by id (which is also topological), edges, dependents, breakers, and last the runs by id.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db import locked_rows as locks
from ccat_workflow_manager.db import statements as sql
from ccat_workflow_manager.db.breakers import LOCK_PROBES, BreakerStore
from ccat_workflow_manager.db.conditions import USES_LIMITS
from ccat_workflow_manager.db.dependents import Dependents
from ccat_workflow_manager.db.full_places import LOCK_PROBES_OF_PLACES, FullPlaceStore
from ccat_workflow_manager.db.locked_rows import ClaimRow, LockedRow
from ccat_workflow_manager.db.overrides import OverrideStore
from ccat_workflow_manager.db.result import Result
from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.db.tolerance import mark_tolerated
from ccat_workflow_manager.db.transitions import Batch, validate_transitions
from ccat_workflow_manager.db.turns import LaunchState, TurnStore
from ccat_workflow_manager.db.work_items import claimed_item
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.breaker import OFF, BreakerPolicy
from ccat_workflow_manager.lifecycle.models import Lease, RunFacts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.overrides import NO_TERM, Changed, FieldChange, Term
from ccat_workflow_manager.lifecycle.states import Event, Status


@dataclass(slots=True)
class Applied:
    """The result of a write."""

    applied: list[UUID] = field(default_factory=list)
    refused: dict[UUID, str] = field(default_factory=dict)
    ready: Counter[str] = field(default_factory=Counter)
    """By backend, how many step runs may be claimed from now on, and those that make room in a project with limits."""
    finished_runs: list[UUID] = field(default_factory=list)
    breaker_opened: bool = False
    ended: int = 0
    """How many of `applied` have ended."""

    def add_ready(self, backend: str) -> None:
        self.ready[backend] += 1

    def add(self, other: Applied) -> None:
        """Take in the result of a further write."""
        self.applied += other.applied
        self.refused |= other.refused
        self.ready += other.ready
        self.finished_runs += other.finished_runs
        self.breaker_opened |= other.breaker_opened
        self.ended += other.ended


class RunStore:
    """Changes runs inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork, breakers: BreakerPolicy = OFF) -> None:
        """`breakers` is how failures are counted. Without it only successes are."""
        self.unit = unit
        self._breakers = BreakerStore(unit, breakers)
        self._dependents = Dependents(unit, self._write_rows)
        self._limited_runs: set[UUID] = set()
        """Runs that were counted, of projects with a limit of what has a job."""
        self.launch_state: LaunchState | None = None
        """What the claim of this transaction has found."""
        self._begun_runs: dict[UUID, RunFacts] = {}
        """Runs that were counted, with a step run that was claimed."""

    def apply(self, transitions: Sequence[Transition]) -> Applied:
        """Apply all transitions that are still legal. The others are refused with a reason and change nothing."""
        if not transitions:
            return Applied()
        return self._write(self.lock([transition.step_run_id for transition in transitions]), transitions)

    def claim(
        self,
        backend: str,
        worker: str,
        limit: int,
        lease_seconds: float,
    ) -> list[WorkItem]:
        """Claim up to `limit` ready step runs of a backend: of the lanes whose turn it is, the most urgent first.

        Also one for each open breaker that is due for a probe, and a few for each full place that is. A drained worker
        claims nothing, and none claims anything of a backend that is to be tried later: `launch_state` says so.
        """
        turns = TurnStore(self.unit, backend, worker)
        self.launch_state = state = turns.look()
        if state.drained or state.retry_later:
            return []
        chosen = turns.lock_next(limit)
        # A drain that came after the look counts in what was locked for a turn; the probes must ask anew.
        if (state.place_due or state.probe_due) and WorkerStore(self.unit).is_drained(worker):
            return []
        if state.place_due:
            found = self.unit.rows(ClaimRow, LOCK_PROBES_OF_PLACES, {"backend": backend})
            FullPlaceStore(self.unit, backend).postpone([row.id for row in found])
            chosen += turns.admit(found)
        if state.probe_due:
            due = turns.admit(self.unit.rows(ClaimRow, LOCK_PROBES, {"backend": backend}))
            self._breakers.set_probes([row.id for row in due], worker)
            chosen += due
        items = self._claimed(chosen, worker, lease_seconds) if chosen else []
        turns.charge(chosen)
        return items

    def _claimed(self, chosen: Sequence[ClaimRow], worker: str, lease_seconds: float) -> list[WorkItem]:
        """Claim these locked step runs. Returns them, the most urgent first."""
        claimed, lease = [TransitionEvent(Event.CLAIMED, actor=worker)], Lease(worker, lease_seconds)
        rows: dict[UUID, LockedRow] = {row.id: row for row in chosen}
        applied = set(
            self._write(rows, [Transition(step_run_id, claimed, lease=lease) for step_run_id in rows]).applied
        )
        chosen = sorted((row for row in chosen if row.id in applied), key=lambda row: (-row.priority, row.id))
        return [claimed_item(row, self._begun_runs[row.run_id]) for row in chosen]

    def record_waits(self, waits: Sequence[tuple[UUID, int, str | None, bool]]) -> None:
        """Record why jobs wait, and whether their backend knows them: (id, token, reason, unknown).

        No status changes. A row whose token has changed is left alone.
        """
        if not waits:
            return
        ids, tokens, reasons, unknown = map(list, zip(*waits, strict=True))
        self.unit.execute(sql.RECORD_WAITS, {"ids": ids, "tokens": tokens, "reasons": reasons, "unknown": unknown})

    # --- requests of users -------------------------------------------------------------------------------------------

    def lock(self, step_run_ids: Iterable[UUID]) -> dict[UUID, LockedRow]:
        return self._locked(locks.LOCK_STEP_RUNS, {"ids": list(step_run_ids)})

    def lock_cancellable(self, run_ids: Iterable[UUID]) -> dict[UUID, LockedRow]:
        """Lock the step runs of these runs that are not finished."""
        return self._locked(locks.LOCK_CANCELLABLE, {"run_ids": list(run_ids)})

    def request_cancel(self, rows: dict[UUID, LockedRow], actor: str, runs: Collection[UUID] = ()) -> Applied:
        """Record the request on these rows and runs. Cancels at once what no worker has claimed."""
        if not rows:
            return Applied()
        self.unit.execute(sql.REQUEST_CANCEL, {"ids": list(rows), "actor": actor})
        end = TransitionEvent(
            Event.CANCELLED, actor=actor, reason=FailureReason.CANCELLED, text=f"cancelled by {actor}"
        )
        unclaimed = {row.id: row for row in rows.values() if row.status is Status.PENDING and row.claims == 0}
        return self._write(unclaimed, [Transition(step_run_id, [end]) for step_run_id in unclaimed], runs)

    def pause(self, run_ids: Sequence[UUID], *, paused: bool, term: Term = NO_TERM) -> tuple[list[UUID], Counter[str]]:
        """Pause or resume runs; a finished run is not paused. Returns the runs, and by backend how many become ready.

        It locks all step runs first, like every writer: meanwhile no run can be finished or retried.
        """
        self.unit.execute(sql.LOCK_ALL_OF_RUNS, {"run_ids": list(run_ids)})
        found = self.unit.execute(sql.PAUSABLE_RUNS, {"run_ids": list(run_ids), "paused": paused})
        chosen = [row[0] for row in found]
        result = Applied()
        parameters = {"run_ids": chosen, "paused": paused}
        for backend, ready in self.unit.execute(sql.HOLD_STEP_RUNS, parameters):
            if ready:
                result.add_ready(backend)
        self.unit.execute(sql.PAUSE_RUNS, {**parameters, "by": term.actor, "why": term.why, "until": term.until})
        return chosen, result.ready

    def ended_pauses(self) -> list[UUID]:
        """Paused runs whose pauses were to last until now."""
        return [row[0] for row in self.unit.execute(sql.ENDED_PAUSES)]

    def set_by_hand(self, step_run_id: UUID) -> bool:
        """Whether a person has set the outcome of this step run."""
        found = self.unit.execute(sql.SET_BY_HAND, {"id": step_run_id}).first()
        return found is not None

    def restate_failure(self, run_id: UUID) -> None:
        """Name another failed step run as the reason of the run, if the first one has another outcome now."""
        self.unit.execute(sql.RESTATE_FAILURE, {"id": run_id, "colon": ": "})

    def set_priority(self, run_ids: Sequence[UUID], priority: int, term: Term = NO_TERM) -> list[UUID]:
        """Set the priority of these runs, and of their step runs that are not finished. Returns the runs concerned."""
        self.unit.execute(sql.LOCK_ALL_OF_RUNS, {"run_ids": list(run_ids)})
        values = {"run_ids": list(run_ids), "priority": priority}
        self.unit.execute(sql.SET_PRIORITY_OF_STEP_RUNS, values)
        found = self.unit.execute(sql.SET_PRIORITY, values).all()
        OverrideStore(self.unit).record(
            [
                FieldChange(Changed.RUN, str(run_id), "priority", project, f"the run {run_id}", before, priority)
                for run_id, project, before in found
            ],
            term,
        )
        return [row[0] for row in found]

    def set_labels(
        self, run_ids: Sequence[UUID], labels: Mapping[str, str], remove: Sequence[str], most: int
    ) -> list[UUID]:
        """Set and remove labels. Returns the runs concerned: not those that would have more than `most`."""
        values = {"run_ids": list(run_ids), "labels": json.dumps(dict(labels)), "remove": list(remove)}
        return [row[0] for row in self.unit.execute(sql.SET_LABELS, {**values, "most": most})]

    # --- the write ---------------------------------------------------------------------------------------------------

    def _locked(self, statement: str, parameters: dict[str, Any]) -> dict[UUID, LockedRow]:
        return {row.id: row for row in self.unit.rows(LockedRow, statement, parameters)}

    def _write(
        self, rows: dict[UUID, LockedRow], transitions: Sequence[Transition], cancelled_runs: Collection[UUID] = ()
    ) -> Applied:
        batch, applied, refused = validate_transitions(rows, transitions)
        batch.cancelled.update(cancelled_runs)
        result = Applied(applied, refused, ended=sum(record["finished"] for record in batch.rows))
        if not batch.rows and not batch.cancelled:
            return result
        count = self._count
        if batch.rows and batch.stands_alone and not batch.products:
            count = self._write_and_count
        elif batch.rows:
            self._write_rows(batch)
        self._dependents.settle(batch, result.add_ready)
        for row in rows.values():
            if row.status is Status.PENDING and row.unmet == 0:
                result.add_ready(row.backend)
        if batch.failures or any(row.has_breaker for row in batch.succeeded):
            result.ready += self._breakers.record(batch.failures, [row.id for row in batch.succeeded])
            result.breaker_opened = self._breakers.opened
        result.finished_runs += count(batch)
        for row in rows.values():
            if row.run_id in self._limited_runs and row.status not in USES_LIMITS:
                result.add_ready(row.backend)
        if batch.blocked or batch.reopened:
            result.finished_runs += self._recheck_upstream(batch)
        return result

    def _write_rows(self, batch: Batch) -> None:
        records = {"rows": json_list(batch.rows), "events": json_list(batch.events)}
        self.unit.execute(sql.WRITE_TRANSITIONS, records)
        if batch.products:
            self.unit.execute(sql.INSERT_PRODUCTS, {"products": json_list(batch.products)})
        if batch.parents:
            self.unit.execute(sql.INSERT_PARENTS, {"parents": json_list(batch.parents)})

    def _count(self, batch: Batch) -> list[UUID]:
        """Bring the rows of the runs up to date. Returns the runs that are finished now."""
        deltas = batch.delta_records()
        return self._ended(self.unit.execute(sql.COUNT_RUNS, {"deltas": json_list(deltas)})) if deltas else []

    def _write_and_count(self, batch: Batch) -> list[UUID]:
        """Write a batch that stands alone, and do what `_count` does."""
        lists = {"rows": batch.rows, "events": batch.events, "deltas": batch.delta_records()}
        records = {name: json_list(each) for name, each in lists.items()}
        return self._ended(self.unit.execute(sql.WRITE_AND_COUNT, records))

    def _ended(self, counted: Result) -> list[UUID]:
        """What follows for runs that were counted. Returns those that are finished now."""
        found = counted.all()
        facts = zip(counted.shaped(RunFacts), found, strict=True)
        self._begun_runs |= {run.run_id: run for run, row in facts if row.began}
        self._limited_runs.update(row.id for row in found if row.is_limited)
        mark_tolerated(self.unit, [row.id for row in found if row.has_losses])
        if with_losses := [row.id for row in found if row.has_ended and row.has_losses]:
            self.unit.execute(sql.END_WITH_LOSSES, {"run_ids": with_losses})
        return [row.id for row in found if row.finished]

    # --- dependents --------------------------------------------------------------------------------------------------

    def _recheck_upstream(self, batch: Batch) -> list[UUID]:
        """Skip step runs that were reopened while one upstream of them ended. Returns the runs that this finishes.

        A retry and an end that are written concurrently do not see each other's step runs. Both then lock the row of
        their run, so the second one sees all from here on. It must not wait for step runs while it holds runs: what
        another transaction has locked is left to the sweep, and so are runs with soft edges, whose steps would count.
        """
        concerned = self._dependents.only_strong({*batch.reopened, *(cause.row.run_id for cause in batch.blocked)})
        causes = [cause for cause in batch.blocked if cause.row.run_id in concerned]
        blocks = {
            **self._dependents.blocks_of_runs(concerned & batch.reopened),
            **self._dependents.blocks(causes),
        }
        return self._count(self._dependents.skip(blocks, locks.LOCK_FREE_DEPENDENTS)) if blocks else []

    def stuck_runs(self, limit: int) -> list[UUID]:
        """Runs in which nothing is active, and something waits for a step run that will not complete."""
        return [row[0] for row in self.unit.execute(sql.STUCK_RUNS, {"limit": limit})]

    def skip_orphaned_dependents(self, run_ids: Sequence[UUID]) -> list[UUID]:
        """Skip what waits in these runs for a step run that will not complete. Returns the runs that this finishes.

        The caller must hold the lock of `retries.try_lock_retries`.
        """
        blocks = self._dependents.blocks_of_runs(run_ids)
        return self._count(self._dependents.skip(blocks, locks.LOCK_DEPENDENTS)) if blocks else []
