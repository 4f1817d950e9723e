"""Which step runs a retry reopens, so that none of them waits for one that stays behind.

What a retry reopens depends on rows that it has read but not locked, and so does what the sweep skips. Therefore
retries hold an advisory lock in shared mode, and the sweep holds it exclusively.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from ccat_workflow_manager.db.conditions import SET_ASIDE, quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.states import RETRYABLE, Status

_LOCK_RETRYABLE = f"""
SELECT id, run_id, position, key, status FROM step_runs
WHERE run_id = ANY(:run_ids) AND status IN ({quoted(RETRYABLE)}) AND NOT {SET_ASIDE} ORDER BY id FOR NO KEY UPDATE
"""

_EDGES = """
SELECT run_id, position, downstream_key, downstream_all, soft, soft_allowed FROM run_steps WHERE run_id = ANY(:run_ids)
"""

_ADVISORY_LOCK = 5_720_191

_Step = tuple[UUID, int]


@dataclass(frozen=True, slots=True)
class _Retryable:
    id: UUID
    run_id: UUID
    position: int
    key: str
    status: str


def try_lock_retries(unit: UnitOfWork) -> bool:
    """Keep retries out until this transaction ends. Returns False at once if one is going on."""
    return bool(unit.execute("SELECT pg_try_advisory_xact_lock(:lock)", {"lock": _ADVISORY_LOCK}).scalar_one())


def lock_reopenable(
    unit: UnitOfWork, run_ids: Sequence[UUID], wanted: set[UUID] | None, *, done: UUID | None = None
) -> dict[UUID, UUID]:
    """Lock the step runs that a retry reopens. Returns their runs by id.

    With `wanted` None these are all that did not complete; else the wanted ones, and those that were skipped because
    of them. With `wanted`, a step run is reopened only if all others it depends on are completed or reopened too, but
    for as many as its edges tolerate. The step run `done` counts as completed.
    """
    unit.execute("SELECT pg_advisory_xact_lock_shared(:lock)", {"lock": _ADVISORY_LOCK})
    locked = unit.rows(_Retryable, _LOCK_RETRYABLE, {"run_ids": list(run_ids)})
    rows = [row for row in locked if row.id != done]
    if wanted is None:
        return {row.id: row.run_id for row in rows}
    upstream_key, upstream_all = _upstream_edges(unit, run_ids)
    left = Counter((row.run_id, row.position) for row in rows)
    left_keys = {(row.run_id, row.position, row.key) for row in rows}
    chosen: dict[UUID, UUID] = {}
    for row in sorted(rows, key=lambda row: (row.run_id, row.position)):
        step = row.run_id, row.position
        blocked = any(left[row.run_id, up] > allowed for up, allowed in upstream_all[step]) or any(
            (row.run_id, up, row.key) in left_keys for up in upstream_key[step]
        )
        if not blocked and (row.id in wanted or row.status == Status.SKIPPED):
            chosen[row.id] = row.run_id
            left[step] -= 1
            left_keys.discard((*step, row.key))
    return chosen


def _upstream_edges(
    unit: UnitOfWork, run_ids: Sequence[UUID]
) -> tuple[Mapping[_Step, set[int]], Mapping[_Step, set[tuple[int, int]]]]:
    """What each step depends on: positions by key, and whole steps with the number of losses that it tolerates."""
    by_key: dict[_Step, set[int]] = defaultdict(set)
    by_all: dict[_Step, set[tuple[int, int]]] = defaultdict(set)
    for edge in unit.execute(_EDGES, {"run_ids": list(run_ids)}):
        allowed = dict(zip(edge.soft, edge.soft_allowed, strict=True))
        for downstream in edge.downstream_key:
            if downstream not in allowed:
                by_key[edge.run_id, downstream].add(edge.position)
        for downstream in edge.downstream_all:
            by_all[edge.run_id, downstream].add((edge.position, allowed.get(downstream, 0)))
    return by_key, by_all
