"""How two runs differ: outcomes of their step runs, what their steps took, and their products by checksum."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects

MOST_SHOWN = 50
_MOST_COMPARED = 20_000

_RECENT = f"""
SELECT r.id::text AS id, r.status, r.pipeline_version AS version, r.labels, r.created_at FROM runs r
WHERE r.pipeline = :pipeline AND r.id <> :id AND {visible("r.project")} ORDER BY r.id DESC LIMIT 20
"""

_BEFORE = f"""
SELECT r.id FROM runs r WHERE r.pipeline = :pipeline AND r.id < :id AND {visible("r.project")}
ORDER BY r.id DESC LIMIT 1
"""

_OUTCOMES = f"""
SELECT COALESCE(a.step, b.step) AS step, COALESCE(a.key, b.key) AS key, a.status AS first, b.status AS second,
  a.reason AS first_reason, b.reason AS second_reason, a.id::text AS first_id, b.id::text AS second_id
FROM (SELECT * FROM step_runs WHERE run_id = :first ORDER BY id LIMIT {_MOST_COMPARED}) a
FULL JOIN (SELECT * FROM step_runs WHERE run_id = :second ORDER BY id LIMIT {_MOST_COMPARED}) b
  ON a.step = b.step AND a.key = b.key
WHERE a.status IS DISTINCT FROM b.status OR a.reason IS DISTINCT FROM b.reason
ORDER BY 1, 2 LIMIT {MOST_SHOWN + 1}
"""

_STEPS = """
SELECT s.run_id = :second AS is_second, s.step, min(s.position) AS position, count(*) AS total,
  count(*) FILTER (WHERE s.status = 'COMPLETED') AS completed, avg(s.wall_time_seconds)::float8 AS seconds,
  sum(s.cpu_hours)::float8 AS cpu_hours, max(s.peak_memory_gb)::float8 AS peak
FROM step_runs s WHERE s.run_id = ANY(ARRAY[:first, :second]::uuid[]) GROUP BY 1, 2
"""

_SIDE = f"""
SELECT s.step, s.key, p.path, p.sha256, p.size, p.id::text AS id
FROM (SELECT * FROM products WHERE run_id = :%side% ORDER BY id LIMIT {_MOST_COMPARED}) p
JOIN step_runs s ON s.id = p.step_run_id
"""

_PRODUCTS = f"""
SELECT COALESCE(a.step, b.step) AS step, COALESCE(a.key, b.key) AS key, COALESCE(a.path, b.path) AS path,
  CASE WHEN b.id IS NULL THEN 'only first' WHEN a.id IS NULL THEN 'only second'
    WHEN a.sha256 = b.sha256 THEN 'equal' ELSE 'changed' END AS how,
  a.id AS first_id, b.id AS second_id, a.size AS first_size, b.size AS second_size
FROM ({_SIDE.replace("%side%", "first")}) a FULL JOIN ({_SIDE.replace("%side%", "second")}) b
  ON a.step = b.step AND a.key = b.key AND a.path = b.path
"""

_COUNTED = f"SELECT x.how, count(*) AS count FROM ({_PRODUCTS}) x GROUP BY x.how"
_DIFFERENT = f"SELECT * FROM ({_PRODUCTS}) x WHERE x.how <> 'equal' ORDER BY step, key, path LIMIT {MOST_SHOWN}"


def recent(unit: UnitOfWork, pipeline: str, run_id: UUID, projects: Projects) -> list[dict[str, Any]]:
    """Other runs of the pipeline, the newest first."""
    return unit.records(_RECENT, {"pipeline": pipeline, "id": run_id, "projects": project_list(projects)})


def before(unit: UnitOfWork, pipeline: str, run_id: UUID, projects: Projects) -> UUID | None:
    """The run of the pipeline before this one."""
    values = {"pipeline": pipeline, "id": run_id, "projects": project_list(projects)}
    found = unit.execute(_BEFORE, values).first()
    return None if found is None else found[0]


def outcomes(unit: UnitOfWork, first: UUID, second: UUID) -> list[dict[str, Any]]:
    """Step runs that ended differently, up to one more than MOST_SHOWN."""
    return unit.records(_OUTCOMES, {"first": first, "second": second})


def steps(unit: UnitOfWork, first: UUID, second: UUID) -> list[dict[str, Any]]:
    """What each step took in both runs; None where a run has no such step."""
    rows = unit.records(_STEPS, {"first": first, "second": second})
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda each: each["position"]):
        side = "second" if row["is_second"] else "first"
        found.setdefault(row["step"], {"step": row["step"], "first": None, "second": None})[side] = row
    return list(found.values())


def products(unit: UnitOfWork, first: UUID, second: UUID) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """How many products are equal, changed, or of one run only; and the first that are not equal."""
    values = {"first": first, "second": second}
    counts = {row["how"]: row["count"] for row in unit.records(_COUNTED, values)}
    return counts, unit.records(_DIFFERENT, values)
