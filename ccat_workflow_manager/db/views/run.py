"""One run: its steps with counts, what it waits for, its keys, and its latest events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.conditions import quoted
from ccat_workflow_manager.db.queries import times, utc
from ccat_workflow_manager.db.queries.runs import RUN
from ccat_workflow_manager.db.queries.waits import WAITING_FOR, waits_of_run
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.states import FINISHED

MOST_KEYS = 200
"""So many keys have a timeline; more are a field."""
MOST_CELLS = 20_000
_MOST_PRODUCTS = 10_000

_HEAD = f"""
SELECT row_to_json(x)::text FROM (
  SELECT {RUN}, r.spec_id, r.paused_by, r.paused_why, {times("r", "paused_until")},
    (SELECT count(*) FROM run_steps t WHERE t.run_id = r.id) AS steps
  FROM runs r WHERE r.id = :id
) x
"""

_STEPS = """
SELECT t.position, t.name, t.total, t.remaining, t.downstream_key, t.downstream_all, t.image
FROM run_steps t WHERE t.run_id = :id ORDER BY t.position
"""

_COUNTS = """
SELECT s.position, s.status, count(*) AS count, count(*) FILTER (WHERE s.attempt > 1) AS retried,
  sum(s.cpu_hours) AS cpu_hours, max(s.peak_memory_gb) AS peak, avg(s.wall_time_seconds) AS mean,
  sum(extract(epoch FROM s.started_at - s.submitted_at)) AS queued, max((s.resources ->> 'memory_gb')::float8) AS asked
FROM step_runs s WHERE s.run_id = :id GROUP BY s.position, s.status
"""

_WAITS = f"""
SELECT x.status, x.text, count(*) AS count, min(x.step || '/' || x.key) AS example, min(x.id::text) AS id,
  string_agg(DISTINCT x.step, ', ') AS steps
FROM (
  SELECT s.id, s.step, s.key, s.status, CASE WHEN s.unmet > 0 AND s.cancel_requested_at IS NULL AND NOT s.held
    THEN NULL ELSE {WAITING_FOR} END AS text
  FROM step_runs s WHERE s.run_id = :id AND s.status NOT IN ({quoted(FINISHED)})
) x GROUP BY x.status, x.text ORDER BY count(*) DESC LIMIT 12
"""

_HELD = f"""
SELECT b.breaker_key::text AS id, b.step, b.reason_text, {times("b", "opened_at")}, count(*) AS count
FROM step_runs s JOIN breakers b ON b.breaker_key = s.breaker_key AND b.opened_at IS NOT NULL
WHERE s.run_id = :id AND s.status = 'PENDING' AND s.unmet = 0 GROUP BY b.breaker_key ORDER BY count(*) DESC LIMIT 8
"""

_FAILURES = """
SELECT s.step, s.reason, count(*) AS count, min(s.id::text) AS id, min(s.reason_text) AS text,
  (array_agg(s.key ORDER BY s.id))[1:4] AS keys
FROM step_runs s WHERE s.run_id = :id AND s.status = 'FAILED' GROUP BY s.step, s.reason ORDER BY count(*) DESC LIMIT 12
"""

# The events of the step runs that changed last: events have no index by run.
_EVENTS = f"""
SELECT e.id, s.step, s.key, s.id::text AS step_run_id, {utc("e.at")} AS at, e.event, e.to_status, e.attempt, e.actor,
  e.reason, e.text
FROM (
  SELECT id, step, key FROM step_runs WHERE run_id = :id
  ORDER BY greatest(finished_at, started_at, submitted_at, created_at) DESC, id LIMIT :limit
) s CROSS JOIN LATERAL (
  SELECT v.id, v.at, v.event, v.to_status, v.attempt, v.actor, v.reason, v.text FROM events v
  WHERE v.step_run_id = s.id ORDER BY v.id DESC LIMIT 6
) e ORDER BY e.id DESC LIMIT :limit
"""

_PRODUCTS = f"""
SELECT count(*), COALESCE(sum(x.size), 0)::float8 FROM (
  SELECT p.size FROM products p WHERE p.run_id = :id LIMIT {_MOST_PRODUCTS}) x
"""

_ORDERS = {
    "given": "id",
    "slowest": "wall_time_seconds DESC NULLS LAST, id",
    "open": f"(status IN ({quoted(FINISHED)}) AND status <> 'FAILED'), id",
}

_CELLS = f"""
SELECT s.id::text AS id, s.position, s.key, s.status, s.attempt, s.reason, s.waiting_for, s.caveats,
  s.resources ->> 'memory_gb' AS memory, {times("s", "created_at", "submitted_at", "started_at", "finished_at")}
FROM step_runs s WHERE s.run_id = :id AND s.position = ANY(:positions) AND s.key = ANY(:keys)
"""

_FIRST_ATTEMPTS = f"""
SELECT a.step_run_id::text AS id, a.number, {times("a", "claimed_at", "started_at", "finished_at")}
FROM attempts a WHERE a.step_run_id = ANY(:ids) ORDER BY a.step_run_id, a.number
"""

_FIELD = f"""
SELECT s.position, string_agg(s.status, ' ' ORDER BY s.id) AS statuses, string_agg(s.key, E'\\n' ORDER BY s.id) AS keys
FROM (SELECT id, position, status, key FROM step_runs WHERE run_id = :id AND position = ANY(:positions)
  ORDER BY id LIMIT {MOST_CELLS}) s GROUP BY s.position
"""


def head(unit: UnitOfWork, run_id: UUID) -> dict[str, Any] | None:
    """The run without its step runs."""
    text = unit.execute(_HEAD, {"id": run_id}).scalar()
    return None if text is None else json.loads(text)


def steps(unit: UnitOfWork, run_id: UUID) -> list[dict[str, Any]]:
    """The steps with their edges and their counts by status."""
    found = unit.records(_STEPS, {"id": run_id})
    by_position: dict[int, list[dict[str, Any]]] = {}
    for row in unit.records(_COUNTS, {"id": run_id}):
        by_position.setdefault(row["position"], []).append(row)
    for step in found:
        rows = by_position.get(step["position"], [])
        step["counts"] = {row["status"]: row["count"] for row in rows}
        step["retried"] = sum(row["retried"] for row in rows)
        step["cpu_hours"] = sum(row["cpu_hours"] or 0 for row in rows)
        step["queued"] = sum(float(row["queued"] or 0) for row in rows)
        step["peak"] = max((row["peak"] or 0 for row in rows), default=0)
        step["asked"] = max((row["asked"] or 0 for row in rows), default=0)
        step["mean"] = next((row["mean"] for row in rows if row["status"] == "COMPLETED"), None)
    return found


def waits(unit: UnitOfWork, run_id: UUID) -> list[dict[str, Any]]:
    """What its step runs wait for or do, grouped by the text. No text: they wait for steps before them."""
    return unit.records(_WAITS, {"id": run_id, "waits": waits_of_run(unit, run_id)})


def held_back(unit: UnitOfWork, run_id: UUID) -> list[dict[str, Any]]:
    """The open breakers that hold back step runs of a run, and how many each."""
    return unit.records(_HELD, {"id": run_id})


def failures(unit: UnitOfWork, run_id: UUID) -> list[dict[str, Any]]:
    """What has failed, grouped by step and reason."""
    return unit.records(_FAILURES, {"id": run_id})


def latest_events(unit: UnitOfWork, run_id: UUID, limit: int) -> list[dict[str, Any]]:
    """The latest events of the step runs that changed last, the newest first."""
    return unit.records(_EVENTS, {"id": run_id, "limit": limit})


def products(unit: UnitOfWork, run_id: UUID) -> tuple[int, float]:
    """How many products the run has, and their size in bytes."""
    count, size = unit.execute(_PRODUCTS, {"id": run_id}).one()
    return count, size


def keys(unit: UnitOfWork, run_id: UUID, position: int, order: str, limit: int, skip: int = 0) -> list[str]:
    """The keys of a step in this order, from one on."""
    statement = f"""
      SELECT key FROM step_runs WHERE run_id = :id AND position = :position ORDER BY {_ORDERS[order]}
      LIMIT :limit OFFSET :skip
    """
    return [
        row[0] for row in unit.execute(statement, {"id": run_id, "position": position, "limit": limit, "skip": skip})
    ]


def cells(unit: UnitOfWork, run_id: UUID, positions: Sequence[int], keys_: Sequence[str]) -> list[dict[str, Any]]:
    """The step runs of these steps and keys."""
    return unit.records(_CELLS, {"id": run_id, "positions": list(positions), "keys": list(keys_)})


def attempts(unit: UnitOfWork, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The attempts of these step runs."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in unit.records(_FIRST_ATTEMPTS, {"ids": [UUID(each) for each in ids]}):
        found.setdefault(row["id"], []).append(row)
    return found


def field(unit: UnitOfWork, run_id: UUID, positions: Sequence[int]) -> dict[int, tuple[list[str], str]]:
    """For each of these steps the statuses of its step runs in order, and their keys, one a line."""
    rows = unit.execute(_FIELD, {"id": run_id, "positions": list(positions)})
    return {row.position: (row.statuses.split(" "), row.keys) for row in rows}
