"""Backends, workers, and the state of everything at one glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ccat_workflow_manager.db.fleet import FleetStore, Waiting
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.sql import Row, one, rows, times, utc
from ccat_workflow_manager.lifecycle.states import RunStatus

_MOST_COUNTED = 100_000
_RECENT = 10

_WORKERS = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT w.id, w.host, w.pid, w.backends, {times("w", "started_at", "seen_at", "last_completed_at")}, w.completed
  FROM workers w WHERE CAST(:after AS text) IS NULL OR w.id > :after ORDER BY w.id LIMIT :limit
) x
"""

_PROBLEMS = f"""
SELECT n.name, b.problem, {utc("b.problem_since")}, {utc("b.retry_at")},
  (SELECT count(*) FROM workers w WHERE n.name = ANY(w.backends)),
  COALESCE(b.unknown_jobs, 0), COALESCE(b.stray_jobs, 0), COALESCE(b.strays_stopped, 0), {utc("b.reaped_at")},
  b.reap_problem
FROM (SELECT name FROM backends UNION SELECT unnest(backends) FROM workers) n LEFT JOIN backends b ON b.name = n.name
"""

_NOTHING_STORED = (None, None, None, 0, 0, 0, 0, None, None)


@dataclass(frozen=True, slots=True)
class BackendState:
    """What is stored about a backend, and how much there is to do for it (counted up to 10,000)."""

    problem: str | None = None
    problem_since: str | None = None
    retry_at: str | None = None
    workers: int = 0
    ready: int = 0
    live: int = 0
    unknown_jobs: int = 0
    stray_jobs: int = 0
    strays_stopped: int = 0
    reaped_at: str | None = None
    reap_problem: str | None = None


def workers_page(unit: UnitOfWork, after: str | None, limit: int) -> list[Row]:
    return rows(unit, _WORKERS, {"after": after, "limit": limit})


def backend_states(unit: UnitOfWork) -> Mapping[str, BackendState]:
    """Every backend that anything is known about."""
    stored = {row[0]: row[1:] for row in unit.execute(_PROBLEMS)}
    waiting = {each.backend: each for each in FleetStore(unit).waiting()}
    states = {}
    for name in sorted(stored.keys() | waiting.keys()):
        problem, since, retry_at, workers, *jobs = stored.get(name, _NOTHING_STORED)
        work = waiting.get(name, Waiting(name))
        states[name] = BackendState(problem, since, retry_at, workers, work.ready, work.live, *jobs)
    return states


# --- at one glance --------------------------------------------------------------------------------------------------


def _counts(statuses: list[RunStatus], condition: str = "") -> str:
    counted = (
        f"'{status}', (SELECT count(*) FROM"
        f" (SELECT 1 FROM runs WHERE status = '{status}'{condition} LIMIT {_MOST_COUNTED}) x)"
        for status in statuses
    )
    return f"json_build_object({', '.join(counted)})"


_READY = "SELECT backend, priority, id FROM step_runs WHERE status = 'PENDING' AND unmet = 0 AND NOT held"

# The index of what is ready begins with backend and priority, so the oldest of all is found by going from one head of
# the index to the next instead of through everything that waits.
_SUMMARY = rf"""
WITH RECURSIVE heads AS (
  ({_READY} ORDER BY backend, priority DESC, id LIMIT 1)
  UNION ALL
  SELECT n.* FROM heads h CROSS JOIN LATERAL (
    ({_READY} AND backend = h.backend AND priority < h.priority ORDER BY priority DESC, id LIMIT 1)
    UNION ALL
    ({_READY} AND backend > h.backend ORDER BY backend, priority DESC, id LIMIT 1)
    LIMIT 1
  ) n
), oldest AS (
  SELECT s.id, s.run_id, r.pipeline, s.step, s.key, s.backend, {times("s", "created_at")},
    round(extract(epoch FROM now() - s.created_at)::numeric, 3) AS waiting_seconds
  FROM step_runs s JOIN runs r ON r.id = s.run_id WHERE s.id = (SELECT id FROM heads ORDER BY id LIMIT 1)
), failures AS (
  SELECT r.id, r.pipeline, r.pipeline_version, r.status_reason, {times("r", "created_at", "finished_at")}
  FROM runs r WHERE r.status = 'FAILED' ORDER BY r.id DESC LIMIT {_RECENT}
)
SELECT json_build_object(
  'generated_at', {utc("now()")},
  'last_24_hours', {_counts(list(RunStatus), " AND created_at > now() - interval '24 hours'")},
  'live', {_counts([RunStatus.PENDING, RunStatus.RUNNING])},
  'workers', (SELECT count(*) FROM workers),
  'oldest_waiting', (SELECT row_to_json(oldest) FROM oldest),
  'recent_failures', COALESCE((SELECT json_agg(row_to_json(failures) ORDER BY id DESC) FROM failures), '[]'::json)
)::text
"""


def summary(unit: UnitOfWork) -> str:
    """Runs of the last 24 hours and unfinished ones, what waits longest, what failed last; without the backends."""
    text = one(unit, _SUMMARY, {})
    assert text is not None
    return text
