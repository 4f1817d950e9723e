"""What the ends of step runs mean for the step runs behind them, which are released, skipped, or wait again.

An edge is strong or soft. A strong one is met when the step runs before it are completed; the first loss (one that ends
without completing) skips what is behind it. A soft one tolerates losses (`run_steps.soft`). It is decided when its step
is over, or with `fail_fast` as soon as there are too many losses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db import edge_statements as sql
from ccat_workflow_manager.db import locked_rows as locks
from ccat_workflow_manager.db.locked_rows import Block, BlockingRow, Cause, LockedRow
from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.db.transitions import Batch
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event, Status

DEPENDENCIES = "dependencies"
"""The actor recorded for transitions that upstream step runs cause."""

_NAMED_LOSSES = 5

_Step = tuple[UUID, int]
"""A run and the position of a step."""
_StepKey = tuple[UUID, int, str | None]
"""The same and a key; None stands for all step runs of the step."""
_Ready = Callable[[str], None]
"""Called with the backend of each step run that becomes ready."""


@dataclass(frozen=True, slots=True)
class _Edges:
    """The edges behind one step of a run."""

    run_id: UUID
    position: int
    downstream_key: Sequence[int]
    downstream_all: Sequence[int]
    soft: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Counted(_Edges):
    """A step whose counters have just changed."""

    name: str
    total: int
    remaining: int
    lost: int
    soft_allowed: Sequence[int]
    fail_fast: Sequence[int]


@dataclass(slots=True)
class _Ends:
    """Step runs of one level of the DAG that others depend on, and whose status has changed."""

    completed: Sequence[LockedRow] = ()
    lost: Sequence[Cause] = ()
    regained: Sequence[LockedRow] = ()
    """They were losses until now: retried, or set to another outcome by a person."""

    def __bool__(self) -> bool:
        return bool(self.completed or self.lost or self.regained)


@dataclass(slots=True)
class _Decisions:
    """What the new counts of a level mean, as records of the statements."""

    same_key: list[dict[str, Any]] = field(default_factory=list)
    whole: list[dict[str, Any]] = field(default_factory=list)
    soft: list[dict[str, Any]] = field(default_factory=list)
    """Soft edges that are met."""
    held: list[dict[str, Any]] = field(default_factory=list)
    """Soft edges that are not decided any more."""
    blocks: dict[_StepKey, Block] = field(default_factory=dict)


class Dependents:
    """Changes the dependents of step runs inside the transaction of `RunStore`."""

    def __init__(self, unit: UnitOfWork, write_rows: Callable[[Batch], None]) -> None:
        self.unit = unit
        self._write_rows = write_rows
        self._edges: dict[_Step, _Edges] = {}

    def settle(self, batch: Batch, ready: _Ready) -> None:
        """Follow the transitions of a batch down the DAG. Adds what is skipped to its counts and its `blocked`."""
        ends = _Ends(batch.completed, batch.blocked, batch.regained)
        if not ends:
            return
        skipped = self._levels(ends, {}, locks.LOCK_DEPENDENTS, ready)
        batch.blocked += skipped.blocked
        for run_id, delta in skipped.deltas.items():
            batch.delta(run_id).update(delta)

    def skip(self, blocks: dict[_StepKey, Block], lock: str) -> Batch:
        """Skip these dependents and what is behind them. Returns what was written."""
        return self._levels(_Ends(), blocks, lock, lambda _: None)

    def blocks(self, causes: Iterable[Cause]) -> dict[_StepKey, Block]:
        """The dependents that these losses block, by strong edges."""
        causes = list(causes)
        self._load({cause.row.run_id for cause in causes})
        found: dict[_StepKey, Block] = {}
        for row, block in causes:
            edges = self._edges[row.run_id, row.position]
            for position in edges.downstream_key:
                if position not in edges.soft:
                    found.setdefault((row.run_id, position, row.key), block)
            for position in edges.downstream_all:
                if position not in edges.soft:
                    found.setdefault((row.run_id, position, None), block)
        return found

    def blocks_of_runs(self, run_ids: Collection[UUID]) -> dict[_StepKey, Block]:
        """The pending step runs of these runs that wait for a step run that will not complete."""
        if not run_ids:
            return {}
        parameters = {"run_ids": list(run_ids)}
        rows = self.unit.rows(BlockingRow, locks.SELECT_BLOCKING, parameters)
        found = self.blocks(Cause(row, locks.block_of(row, row.reason, row.reason_text)) for row in rows)
        for each in self.unit.execute(sql.SELECT_EXCEEDED, parameters):
            found[each.run_id, each.downstream, None] = _exceeded(each.name, each.lost, each.total, each.allowed)
        return found

    def only_strong(self, run_ids: Collection[UUID]) -> set[UUID]:
        """Those of these runs that have no soft edge."""
        self._load(run_ids)
        return set(run_ids) - {run_id for (run_id, _), edges in self._edges.items() if edges.soft}

    # --- level by level ----------------------------------------------------------------------------------------------

    def _levels(self, ends: _Ends, blocks: dict[_StepKey, Block], lock: str, ready: _Ready) -> Batch:
        skipped = Batch()
        while ends or blocks:
            done = len(skipped.blocked)
            blocks = {**blocks, **self.blocks(ends.lost)}
            if counts := self._counts(ends):
                decisions = self._decide(counts, ends)
                self._carry_out(decisions, ends.regained, ready)
                blocks |= decisions.blocks
            for row in self._lock_dependents(blocks, lock):
                block = blocks.get((row.run_id, row.position, row.key)) or blocks[row.run_id, row.position, None]
                skipped.add(row, Transition(row.id, [_skip(block)]))
            if skipped.rows:
                self._write_rows(skipped)
                skipped.rows, skipped.events = [], []
            ends, blocks = _Ends(lost=skipped.blocked[done:]), {}
        return skipped

    def _load(self, run_ids: Iterable[UUID]) -> None:
        missing = set(run_ids) - {run_id for run_id, _ in self._edges}
        if missing:
            for edges in self.unit.rows(_Edges, sql.EDGES, {"run_ids": sorted(missing)}):
                self._edges[edges.run_id, edges.position] = edges

    def _counts(self, ends: _Ends) -> list[_Counted]:
        """Count the ends on their steps. Losses count only where an edge tolerates some."""
        self._load({row.run_id for row in ends.regained})
        changes: dict[_Step, list[int]] = defaultdict(lambda: [0, 0])
        for row in ends.completed:
            changes[row.run_id, row.position][0] += 1
        for change, rows in ((1, [cause.row for cause in ends.lost]), (-1, ends.regained)):
            for row in rows:
                if self._edges[row.run_id, row.position].soft:
                    changes[row.run_id, row.position][1] += change
        records = [
            {"run_id": str(run_id), "position": position, "completed": completed, "lost": lost}
            for (run_id, position), (completed, lost) in sorted(changes.items())
        ]
        return self.unit.rows(_Counted, sql.COUNT_DOWN, {"done": json_list(records)}) if records else []

    def _decide(self, counts: Sequence[_Counted], ends: _Ends) -> _Decisions:
        completed = _keys(ends.completed)
        lost = _keys(cause.row for cause in ends.lost)
        reopened = _keys(row for row in ends.regained if row.status is Status.PENDING)
        decisions = _Decisions()
        for step in counts:
            at = step.run_id, step.position
            self._decide_by_key(step, completed[at], lost[at], reopened[at], decisions)
            for position, allowed in zip(step.soft, step.soft_allowed, strict=True):
                if position in step.downstream_all:
                    self._decide_soft(step, position, allowed, decisions, reopened=bool(reopened[at]))
            if step.remaining == 0 and completed[at]:
                decisions.whole += [
                    {"run_id": str(step.run_id), "position": position}
                    for position in step.downstream_all
                    if position not in step.soft
                ]
        return decisions

    def _decide_by_key(
        self,
        step: _Counted,
        completed: Sequence[str],
        lost: Sequence[str],
        reopened: Sequence[str],
        decisions: _Decisions,
    ) -> None:
        for position in step.downstream_key:
            to = {"run_id": str(step.run_id), "position": position}
            if position not in step.soft:
                decisions.same_key += [{**to, "key": key} for key in completed]
                continue
            soft = {**to, "upstream": step.position, "name": step.name}
            decisions.soft += [{**soft, "key": key, "caveat": None} for key in completed]
            decisions.soft += [
                {**soft, "key": key, "caveat": f"{step.name}: {step.name}/{key} did not complete"} for key in lost
            ]
            decisions.held += [{**soft, "key": key} for key in reopened]

    def _decide_soft(
        self, step: _Counted, position: int, allowed: int, decisions: _Decisions, *, reopened: bool
    ) -> None:
        """Decide an edge to all step runs of the step at `position`."""
        over = step.remaining == step.lost
        to = {"run_id": str(step.run_id), "position": position, "upstream": step.position, "name": step.name}
        if over and step.lost <= allowed:
            decisions.soft.append({**to, "key": None, "caveat": self._caveat(step) if step.lost else None})
        elif step.lost > allowed and (over or position in step.fail_fast):
            decisions.blocks[step.run_id, position, None] = _exceeded(step.name, step.lost, step.total, allowed)
        elif reopened:
            decisions.held.append({**to, "key": None})

    def _caveat(self, step: _Counted) -> str:
        """What a result lacks that is made without the losses of this step."""
        where = {"run_id": step.run_id, "position": step.position, "most": _NAMED_LOSSES}
        keys = [key for (key,) in self.unit.execute(sql.LOST_KEYS, where)]
        more = f" and {step.lost - len(keys)} more" if len(keys) < step.lost else ""
        return f"{step.name}: {step.lost} of {step.total} step runs did not complete: {', '.join(keys)}{more}"

    def _carry_out(self, decisions: _Decisions, reopened: Iterable[LockedRow], ready: _Ready) -> None:
        releases = (
            (sql.RELEASE_SAME_KEY, decisions.same_key),
            (sql.RELEASE_WHOLE_STEP, decisions.whole),
            (sql.RELEASE_SOFT, decisions.soft),
        )
        for statement, met in releases:
            if met:
                for backend, is_ready in self.unit.execute(statement, {"met": json_list(met)}):
                    if is_ready:
                        ready(backend)
        if decisions.held:
            rows = {row.id: row for row in reopened}
            for step_run_id, unmet in self.unit.execute(sql.HOLD_SOFT, {"held": json_list(decisions.held)}):
                if step_run_id in rows:
                    rows[step_run_id].unmet = unmet

    def _lock_dependents(self, blocked: Iterable[_StepKey], lock: str) -> list[LockedRow]:
        records = [
            {"run_id": str(run_id), "position": position, "key": key, "whole": key is None}
            for run_id, position, key in blocked
        ]
        return self.unit.rows(LockedRow, lock, {"blocked": json_list(records)}) if records else []


def _keys(rows: Iterable[LockedRow]) -> dict[_Step, list[str]]:
    found: dict[_Step, list[str]] = defaultdict(list)
    for row in rows:
        found[row.run_id, row.position].append(row.key)
    return found


def _exceeded(name: str, lost: int, total: int, allowed: int) -> Block:
    text = f"{name}: {lost} of {total} step runs did not complete, {allowed} are tolerated"
    return Block(text, FailureReason.UPSTREAM_FAILED)


def _skip(block: Block) -> TransitionEvent:
    return TransitionEvent(
        Event.SKIPPED, actor=DEPENDENCIES, reason=block.reason, text=f"{locks.BLOCKED_BY}{block.text}"
    )
