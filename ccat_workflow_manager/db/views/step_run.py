"""One step run beside its siblings and its neighbours in the graph, and the step runs of one step."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.queries import times, utc
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.states import Status

_PLACE = f"""
SELECT s.position, s.run_id::text AS run_id, s.cancel_requested_at, r.spec_id::text AS spec_id, r.labels, r.finished_at,
  r.paused, r.paused_by, r.paused_why, {times("r", "paused_until")}, t.image, t.total,
  b.breaker_key::text AS breaker, b.reason_text AS breaker_reason, {utc("b.opened_at")} AS breaker_opened_at
FROM step_runs s JOIN runs r ON r.id = s.run_id JOIN run_steps t ON t.run_id = s.run_id AND t.position = s.position
LEFT JOIN breakers b ON b.breaker_key = s.breaker_key AND b.opened_at IS NOT NULL
  AND s.status = 'PENDING' AND s.unmet = 0
WHERE s.id = :id
"""

_SIBLINGS = """
SELECT count(*) FILTER (WHERE s.status = 'COMPLETED') AS completed,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY s.wall_time_seconds) AS median_seconds,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY s.peak_memory_gb) AS median_memory, max(s.peak_memory_gb) AS most_memory
FROM (SELECT status, wall_time_seconds, peak_memory_gb FROM step_runs
  WHERE run_id = :run_id AND position = :position AND id <> :id LIMIT 10000) s
"""

_NEIGHBOURS = """
SELECT (SELECT row_to_json(x) FROM (SELECT id::text, key FROM step_runs
    WHERE run_id = :run_id AND position = :position AND id < :id ORDER BY id DESC LIMIT 1) x) AS previous,
  (SELECT row_to_json(x) FROM (SELECT id::text, key FROM step_runs
    WHERE run_id = :run_id AND position = :position AND id > :id ORDER BY id LIMIT 1) x) AS next
"""

_RELATED = """
SELECT t.name, t.total, t.remaining, t.position < :position AS is_before, u.id::text AS id, u.status, u.key,
  EXISTS (SELECT 1 FROM step_runs f WHERE f.run_id = t.run_id AND f.position = t.position AND f.status = 'FAILED'
    AND t.total > 1 AND t.remaining > 0) AS failed
FROM run_steps t
JOIN run_steps o ON o.run_id = t.run_id AND o.position = :position
LEFT JOIN step_runs u ON u.run_id = t.run_id AND u.position = t.position AND (u.key = :key OR t.total = 1)
WHERE t.run_id = :run_id AND (t.position = ANY(o.downstream_key || o.downstream_all)
  OR :position = ANY(t.downstream_key || t.downstream_all))
ORDER BY t.position
"""

_PAGE = f"""
SELECT s.id::text AS id, s.key, s.status, s.reason, s.reason_text, s.waiting_for, s.caveats, s.attempt, s.max_attempts,
  s.job_id, s.wall_time_seconds, s.peak_memory_gb, s.resources ->> 'memory_gb' AS memory_gb, s.backend,
  {times("s", "started_at", "finished_at")}
FROM step_runs s WHERE s.run_id = :run_id AND s.position = :position AND (:status = '' OR s.status = :status)
  AND (:q = '' OR starts_with(s.key, :q)) AND (CAST(:after AS uuid) IS NULL OR s.id > :after)
ORDER BY s.id LIMIT :limit
"""

_BY_KEY = """
SELECT s.id FROM step_runs s JOIN run_steps t ON t.run_id = s.run_id AND t.position = s.position
WHERE s.run_id = :run_id AND t.name = :step AND s.key = :key
"""

_STEP = "SELECT t.position, t.total, t.image FROM run_steps t WHERE t.run_id = :run_id AND t.name = :step"

_STEP_COUNTS = """
SELECT s.status, count(*) FROM step_runs s WHERE s.run_id = :run_id AND s.position = :position GROUP BY s.status
"""


def place(unit: UnitOfWork, step_run_id: UUID) -> dict[str, Any] | None:
    """The place of a step run in its run."""
    found = unit.records(_PLACE, {"id": step_run_id})
    return found[0] if found else None


def siblings(unit: UnitOfWork, run_id: UUID, position: int, step_run_id: UUID) -> dict[str, Any]:
    """What the other step runs of the step used."""
    return unit.records(_SIBLINGS, {"run_id": run_id, "position": position, "id": step_run_id})[0]


def neighbours(unit: UnitOfWork, run_id: UUID, position: int, step_run_id: UUID) -> dict[str, Any]:
    """The step runs before and after it in the order given."""
    return unit.records(_NEIGHBOURS, {"run_id": run_id, "position": position, "id": step_run_id})[0]


def related(unit: UnitOfWork, run_id: UUID, position: int, key: str) -> list[dict[str, Any]]:
    """The steps that it waits for and those that wait for it, with the step run of the same key, or their only one."""
    return unit.records(_RELATED, {"run_id": run_id, "position": position, "key": key})


def of_key(unit: UnitOfWork, run_id: UUID, step: str, key: str) -> UUID | None:
    found: UUID | None = unit.execute(_BY_KEY, {"run_id": run_id, "step": step, "key": key}).scalar()
    return found


def step(unit: UnitOfWork, run_id: UUID, name: str) -> dict[str, Any] | None:
    """A step of a run with its counts by status."""
    found = unit.records(_STEP, {"run_id": run_id, "step": name})
    if not found:
        return None
    counts = {str(status): 0 for status in Status}
    counts |= {
        row[0]: row[1] for row in unit.execute(_STEP_COUNTS, {"run_id": run_id, "position": found[0]["position"]})
    }
    return {**found[0], "counts": counts}


def step_runs_page(
    unit: UnitOfWork, run_id: UUID, position: int, *, status: str, q: str, after: UUID | None, limit: int
) -> list[dict[str, Any]]:
    """The step runs of a step in the order given; `q` is the beginning of their keys."""
    values = {"run_id": run_id, "position": position, "status": status, "q": q, "after": after, "limit": limit}
    return unit.records(_PAGE, values)
