"""Which step runs a retry opens again, so that none of them waits for something that will never come.

Retries, of which there may be several at a time, and the repair by the sweep exclude each other: what one of them opens
again, and what the other skips, depends on what it has read, and not only on the rows that it has locked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from uuid import UUID

from ccat_workflow_manager.db.schema import quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.states import RETRYABLE, Status

_BLOCKED = f"""
SELECT id, run_id, position, key, status FROM step_runs
WHERE run_id = ANY(:run_ids) AND status IN ({quoted(RETRYABLE)}) ORDER BY id FOR NO KEY UPDATE
"""

_EDGES = "SELECT run_id, position, downstream_key, downstream_all FROM run_steps WHERE run_id = ANY(:run_ids)"

_LOCK = 5_720_191


def try_lock_retries(unit: UnitOfWork) -> bool:
    """Keep others from retrying until this transaction ends; False if somebody is at it."""
    return bool(unit.execute("SELECT pg_try_advisory_xact_lock(:lock)", {"lock": _LOCK}).scalar_one())


def reopenable(unit: UnitOfWork, run_ids: Sequence[UUID], wanted: set[UUID] | None) -> list[UUID]:
    """Lock and choose: all that did not complete (`wanted` None), or the wanted and what was skipped because of them.

    A skipped step run is opened only if nothing else it depends on stays behind.
    """
    unit.execute("SELECT pg_advisory_xact_lock_shared(:lock)", {"lock": _LOCK})
    rows = unit.execute(_BLOCKED, {"run_ids": list(run_ids)}).all()
    if wanted is None:
        return [row[0] for row in rows]
    by_key: dict[tuple[UUID, int], set[int]] = defaultdict(set)
    by_all: dict[tuple[UUID, int], set[int]] = defaultdict(set)
    for run_id, position, downstream_key, downstream_all in unit.execute(_EDGES, {"run_ids": list(run_ids)}):
        for downstream in downstream_key:
            by_key[run_id, downstream].add(position)
        for downstream in downstream_all:
            by_all[run_id, downstream].add(position)
    left_whole = Counter((row[1], row[2]) for row in rows)
    left_keys = {(row[1], row[2], row[3]) for row in rows}
    chosen: list[UUID] = []
    for step_run_id, run_id, position, key, status in sorted(rows, key=lambda row: (row[1], row[2])):
        free = not any(left_whole[run_id, up] for up in by_all[run_id, position]) and not any(
            (run_id, up, key) in left_keys for up in by_key[run_id, position]
        )
        if free and (step_run_id in wanted or status == Status.SKIPPED):
            chosen.append(step_run_id)
            left_whole[run_id, position] -= 1
            left_keys.discard((run_id, position, key))
    return chosen
