"""Pipelines with their last runs, and what their steps ask for and use.

A run of an inline definition may have the name of a pipeline of another project.
"""

from __future__ import annotations

from typing import Any

from ccat_workflow_manager.db.queries import project_list, times, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects

LAST_RUNS = 72
_SAMPLED_RUNS = 60
_SAMPLED_STEP_RUNS = 20_000

_EXISTS = f"SELECT 1 FROM pipelines p WHERE p.name = :name AND {visible('p.project')}"

_LIST = f"""
SELECT p.name, p.project, p.current_version AS version, COALESCE(d.content ->> 'description', '') AS description,
  p.enabled, p.priority, {times("p", "updated_at")}, json_array_length(d.content -> 'steps') AS steps,
  ARRAY(SELECT r.status FROM runs r WHERE r.pipeline = p.name AND r.project = p.project
    ORDER BY r.id DESC LIMIT 24) AS last
FROM pipelines p JOIN specs d ON d.pipeline_id = p.id AND d.version = p.current_version
WHERE p.name > :after AND {visible("p.project")} ORDER BY p.name LIMIT :limit
"""

_RUNS = f"""
SELECT r.id::text AS id, r.status, r.pipeline_version AS version,
  {times("r", "created_at", "started_at", "finished_at")},
  extract(epoch FROM COALESCE(r.finished_at, now()) - r.started_at)::float8 AS seconds, r.n_completed AS completed
FROM runs r WHERE r.pipeline = :name AND {visible("r.project")} ORDER BY r.id DESC LIMIT {LAST_RUNS}
"""

_STEPS = f"""
SELECT x.step, count(DISTINCT x.run_id) AS runs, count(*) AS step_runs,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY x.wall_time_seconds) AS median_seconds,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY x.wall_time_seconds) AS high_seconds,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY x.peak_memory_gb) AS median_memory,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY x.peak_memory_gb) AS high_memory, max(x.peak_memory_gb) AS most_memory,
  count(*) FILTER (WHERE x.status = 'FAILED') AS failed, count(*) FILTER (WHERE x.status = 'COMPLETED') AS completed,
  count(*) FILTER (WHERE x.attempt > 1 AND x.status = 'COMPLETED') AS saved_by_retry, sum(x.cpu_hours) AS cpu_hours,
  mode() WITHIN GROUP (ORDER BY x.reason) FILTER (WHERE x.status = 'FAILED') AS mostly
FROM (
  SELECT s.step, s.run_id, s.status, s.attempt, s.reason, s.wall_time_seconds, s.peak_memory_gb, s.cpu_hours
  FROM step_runs s WHERE s.run_id = ANY(ARRAY(
    SELECT r.id FROM runs r WHERE r.pipeline = :name AND r.finished_at IS NOT NULL AND {visible("r.project")}
    ORDER BY r.id DESC LIMIT {_SAMPLED_RUNS}))
  LIMIT {_SAMPLED_STEP_RUNS}
) x GROUP BY x.step
"""

_BY_VERSION = f"""
SELECT x.version, count(*) FILTER (WHERE x.status = 'COMPLETED') AS completed,
  count(*) FILTER (WHERE x.status = 'FAILED') AS failed, count(*) AS runs
FROM (SELECT r.pipeline_version AS version, r.status FROM runs r WHERE r.pipeline = :name AND {visible("r.project")}
  ORDER BY r.id DESC LIMIT 1000) x
GROUP BY x.version
"""


def pipelines(unit: UnitOfWork, after: str, limit: int, projects: Projects) -> list[dict[str, Any]]:
    """Pipelines by name, each with the statuses of its last runs, the newest first."""
    return unit.records(_LIST, {"after": after, "limit": limit, "projects": project_list(projects)})


def last_runs(unit: UnitOfWork, name: str, projects: Projects) -> list[dict[str, Any]]:
    """The last runs, the newest first."""
    return unit.records(_RUNS, {"name": name, "projects": project_list(projects)})


def step_usage(unit: UnitOfWork, name: str, projects: Projects) -> dict[str, dict[str, Any]]:
    """What the steps of the last finished runs used, by the name of the step."""
    return {row["step"]: row for row in unit.records(_STEPS, {"name": name, "projects": project_list(projects)})}


def by_version(unit: UnitOfWork, name: str, projects: Projects) -> dict[int, dict[str, Any]]:
    """The outcomes of the last runs by version."""
    return {
        row["version"]: row for row in unit.records(_BY_VERSION, {"name": name, "projects": project_list(projects)})
    }


def exists(unit: UnitOfWork, name: str, projects: Projects) -> bool:
    """Whether these projects have a registered pipeline of this name."""
    return unit.execute(_EXISTS, {"name": name, "projects": project_list(projects)}).first() is not None
