"""Products of a run by step, and the newest products of all."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.queries import times, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects

_COLUMNS = f"""
p.id::text AS id, p.run_id::text AS run_id, s.id::text AS step_run_id, s.step, s.key, p.name, p.path,
p.type, p.size, p.is_directory, p.file_count,
{times("p", "created_at")}
"""

_NEWEST = f"""
SELECT {_COLUMNS}, r.pipeline, r.labels FROM (
  SELECT * FROM products WHERE id < :before ORDER BY id DESC LIMIT :limit
) p JOIN step_runs s ON s.id = p.step_run_id JOIN runs r ON r.id = p.run_id ORDER BY p.id DESC
"""

_NEWEST_VISIBLE = f"""
SELECT {_COLUMNS}, r.pipeline, r.labels FROM products p
JOIN step_runs s ON s.id = p.step_run_id JOIN runs r ON r.id = p.run_id
WHERE p.id < :before AND {visible("r.project")} ORDER BY p.id DESC LIMIT :limit
"""

_OF_RUN = f"""
SELECT {_COLUMNS} FROM (SELECT * FROM products WHERE run_id = :run_id ORDER BY id LIMIT :limit) p
JOIN step_runs s ON s.id = p.step_run_id ORDER BY s.position, s.key, p.path
"""


def newest(unit: UnitOfWork, before: UUID | None, limit: int, projects: Projects) -> list[dict[str, Any]]:
    """The newest products of all runs of these projects."""
    values = {"before": before or UUID(int=2**128 - 1), "limit": limit}
    if projects is None:
        return unit.records(_NEWEST, values)
    return unit.records(_NEWEST_VISIBLE, {**values, "projects": sorted(projects)})


def of_run(unit: UnitOfWork, run_id: UUID, limit: int) -> list[dict[str, Any]]:
    """The products of a run, by step, key and path."""
    return unit.records(_OF_RUN, {"run_id": run_id, "limit": limit})
