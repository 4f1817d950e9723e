"""Workers and the summary of the dashboard as JSON, and what is stored about backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ccat_workflow_manager.db.backends import BackendStore, Workload
from ccat_workflow_manager.db.conditions import READY, quoted
from ccat_workflow_manager.db.queries import Row, one, project_list, rows, times, utc, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.event_types import BackendEvent
from ccat_workflow_manager.lifecycle.states import LEASED, LIVE, RunStatus

_MOST_COUNTED = 100_000
_MOST_PIPELINES = 10_000
_RECENT = 10
_SHOWN_IN_HAND = 5

# What all workers have in hand is read once, not once for each of them.
_WORKERS = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT w.id, w.host, w.pid, w.backends, {times("w", "started_at", "seen_at", "last_completed_at")}, w.completed,
    w.ended_by_minute, w.drained, COALESCE(h.in_hand, 0) AS in_hand, COALESCE(h.working_on, '[]') AS working_on
  FROM (SELECT * FROM workers WHERE %which% ORDER BY id LIMIT :limit) w
  LEFT JOIN (
    SELECT o.lease_owner, count(*) AS in_hand, json_agg(json_build_object('step_run_id', o.id, 'run_id', o.run_id,
      'step', o.step, 'key', o.key, 'status', o.status) ORDER BY o.id)
      FILTER (WHERE o.is_visible AND o.place <= {_SHOWN_IN_HAND}) AS working_on
    FROM (
      SELECT s.lease_owner, s.id, s.run_id, s.step, s.key, s.status, {visible("r.project")} AS is_visible,
        row_number() OVER (PARTITION BY s.lease_owner, {visible("r.project")} ORDER BY s.id) AS place
      FROM step_runs s JOIN runs r ON r.id = s.run_id WHERE s.status IN ({quoted(LEASED)}) AND %whose%
    ) o GROUP BY o.lease_owner
  ) h ON h.lease_owner = w.id ORDER BY w.id
) x
"""
_PAGE = _WORKERS.replace("%which%", "CAST(:after AS text) IS NULL OR id > :after").replace(
    "%whose%", "s.lease_owner IS NOT NULL"
)
_ONE = _WORKERS.replace("%which%", "id = :id").replace("%whose%", "s.lease_owner = :id")
_WORKER_COUNTS = """
SELECT count(*), count(*) FILTER (WHERE seen_at >= now() - :seconds * interval '1 second') FROM workers
"""
_PIPELINE_COUNT = f"""
SELECT count(*) FROM (SELECT 1 FROM pipelines WHERE {visible("project")} LIMIT {_MOST_PIPELINES}) x
"""

_BACKENDS = f"""
SELECT n.name, b.problem, {utc("b.problem_since")} AS problem_since, {utc("b.retry_at")} AS retry_at,
  (SELECT count(*) FROM workers w WHERE n.name = ANY(w.backends)) AS workers,
  COALESCE(b.unknown_jobs, 0) AS unknown_jobs, COALESCE(b.stray_jobs, 0) AS stray_jobs,
  COALESCE(b.strays_stopped, 0) AS strays_stopped, {utc("b.reaped_at")} AS reaped_at, b.reap_problem
FROM (SELECT name FROM backends UNION SELECT unnest(backends) FROM workers) n LEFT JOIN backends b ON b.name = n.name
"""


_BACKEND_CHANGES = f"""
SELECT backend, at, event = '{BackendEvent.AWAY}' AS is_away FROM events
WHERE backend IS NOT NULL AND at > now() - :seconds * interval '1 second' ORDER BY at, id
"""
_OF_NO_PROJECT = ("problem", "problem_since", "retry_at", "workers")
_OWN_WORK = f"""
SELECT backend, (count(*) FILTER (WHERE status = 'PENDING'))::int, (count(*) FILTER (WHERE status <> 'PENDING'))::int
FROM (
  (SELECT s.backend, s.status FROM step_runs s JOIN runs r ON r.id = s.run_id
   WHERE s.status = 'PENDING' AND s.unmet = 0 AND NOT s.held AND {visible("r.project")} LIMIT {_MOST_COUNTED})
  UNION ALL
  (SELECT s.backend, s.status FROM step_runs s JOIN runs r ON r.id = s.run_id
   WHERE s.status IN ({quoted(LIVE)}) AND {visible("r.project")} LIMIT {_MOST_COUNTED})
) x GROUP BY backend
"""


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

    @property
    def is_unserved(self) -> bool:
        """Work waits because no worker serves the backend. One that does not answer has that as its problem."""
        return self.ready > 0 and self.workers == 0 and self.problem is None


def one_worker(unit: UnitOfWork, worker: str) -> str | None:
    found = rows(unit, _ONE, {"id": worker, "limit": 1, "projects": None})
    return found[0].json if found else None


def workers_page(unit: UnitOfWork, after: str | None, limit: int, projects: Projects = None) -> list[Row]:
    """The workers by id. Names only step runs of these projects."""
    return rows(unit, _PAGE, {"after": after, "limit": limit, "projects": project_list(projects)})


def worker_counts(unit: UnitOfWork, seconds: float) -> tuple[int, int]:
    """How many workers there are, and how many of them were seen in the last seconds."""
    every, seen = unit.execute(_WORKER_COUNTS, {"seconds": seconds}).one()
    return every, seen


def pipeline_count(unit: UnitOfWork, projects: Projects = None) -> int:
    """How many pipelines there are in these projects, counted up to 10,000."""
    found: int = unit.execute(_PIPELINE_COUNT, {"projects": project_list(projects)}).scalar_one()
    return found


def backend_states(unit: UnitOfWork, projects: Projects = None) -> Mapping[str, BackendState]:
    """Every backend with a stored state, a worker or work to do, by name. Counts only the work of these projects."""
    stored = {record.pop("name"): record for record in unit.records(_BACKENDS)}
    if projects is not None:
        return _states_for(unit, stored, projects)
    workloads = {each.backend: each for each in BackendStore(unit).workloads()}
    states = {}
    for name in sorted(stored.keys() | workloads.keys()):
        workload = workloads.get(name, Workload(name))
        states[name] = BackendState(**stored.get(name, {}), ready=workload.ready, live=workload.live)
    return states


def backend_changes(unit: UnitOfWork, seconds: float) -> dict[str, list[tuple[datetime, bool]]]:
    """When each backend went away (true) or came back in the last seconds, in order."""
    found: dict[str, list[tuple[datetime, bool]]] = {}
    for name, at, is_away in unit.execute(_BACKEND_CHANGES, {"seconds": seconds}):
        found.setdefault(name, []).append((at, is_away))
    return found


def _states_for(
    unit: UnitOfWork, stored: dict[str, dict[str, Any]], projects: frozenset[str]
) -> dict[str, BackendState]:
    """The same for a caller that is limited to projects: jobs of no known attempt may be those of other projects."""
    counts = {name: (ready, live) for name, ready, live in unit.execute(_OWN_WORK, {"projects": sorted(projects)})}
    states = {}
    for name in sorted(stored.keys() | counts.keys()):
        known = {key: value for key, value in stored.get(name, {}).items() if key in _OF_NO_PROJECT}
        ready, live = counts.get(name, (0, 0))
        states[name] = BackendState(**known, ready=ready, live=live)
    return states


# --- the summary -----------------------------------------------------------------------------------------------------


def _counts(statuses: list[RunStatus]) -> str:
    counted = (
        f"'{status}', (SELECT count(*) FROM"
        f" (SELECT 1 FROM runs WHERE status = '{status}' AND {visible('project')} LIMIT {_MOST_COUNTED}) x)"
        for status in statuses
    )
    return f"json_build_object({', '.join(counted)})"


_READY = f"SELECT backend, lane, priority, id FROM step_runs WHERE {READY}"

# The index of ready step runs begins with backend, lane and priority. So the oldest one is found by going from the head
# of one of these to that of the next (`heads`), not through all that are ready.
_HEADS = f"""
WITH RECURSIVE heads AS (
  ({_READY} ORDER BY backend, lane, priority DESC, id LIMIT 1)
  UNION ALL
  SELECT n.* FROM heads h CROSS JOIN LATERAL (
    ({_READY} AND backend = h.backend AND lane = h.lane AND priority < h.priority ORDER BY priority DESC, id LIMIT 1)
    UNION ALL
    ({_READY} AND backend = h.backend AND lane > h.lane ORDER BY lane, priority DESC, id LIMIT 1)
    UNION ALL
    ({_READY} AND backend > h.backend ORDER BY backend, lane, priority DESC, id LIMIT 1)
    LIMIT 1
  ) n
)"""
_OWN_HEADS = f"""
WITH heads AS (
  SELECT s.id FROM step_runs s JOIN runs r ON r.id = s.run_id
  WHERE s.status = 'PENDING' AND s.unmet = 0 AND NOT s.held AND {visible("r.project")} ORDER BY s.id LIMIT 1
)"""
_SUMMARY = rf"""
, oldest AS (
  SELECT s.id, s.run_id, r.pipeline, s.step, s.key, s.backend, {times("s", "created_at")},
    round(extract(epoch FROM now() - s.created_at)::numeric, 3) AS waiting_seconds
  FROM step_runs s JOIN runs r ON r.id = s.run_id WHERE s.id = (SELECT id FROM heads ORDER BY id LIMIT 1)
), failures AS (
  SELECT r.id, r.pipeline, r.pipeline_version, r.status_reason, {times("r", "created_at", "finished_at")}
  FROM runs r WHERE r.status = 'FAILED' AND {visible("r.project")} ORDER BY r.id DESC LIMIT {_RECENT}
)
SELECT json_build_object(
  'generated_at', {utc("now()")},
  'live', {_counts([RunStatus.PENDING, RunStatus.RUNNING])},
  'workers', (SELECT count(*) FROM workers),
  'oldest_waiting', (SELECT row_to_json(oldest) FROM oldest),
  'recent_failures', COALESCE((SELECT json_agg(row_to_json(failures) ORDER BY id DESC) FROM failures), '[]'::json)
)::text
"""


def summary(unit: UnitOfWork, projects: Projects = None) -> str:
    """Unfinished runs by status, the oldest ready step run, and the last failures. Without backends and figures."""
    heads = _HEADS if projects is None else _OWN_HEADS
    text = one(unit, heads + _SUMMARY, {"projects": project_list(projects)})
    assert text is not None
    return text
