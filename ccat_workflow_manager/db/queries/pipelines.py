"""Pipelines and their versions as JSON."""

from __future__ import annotations

from ccat_workflow_manager.db.queries import Row, one, project_list, rows, times, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects

_PIPELINE = f"""
p.name, p.project, p.current_version AS version, COALESCE(d.content ->> 'description', '') AS description, p.enabled,
p.priority, d.content_hash, {times("p", "created_at", "updated_at")}
"""
_FROM = "FROM pipelines p JOIN specs d ON d.pipeline_id = p.id AND d.version = p.current_version"

_DETAIL = f"""
SELECT row_to_json(x)::text FROM (SELECT {_PIPELINE}, d.content AS definition {_FROM} WHERE p.name = :name) x
"""

_PAGE = f"""
SELECT x.name, row_to_json(x)::text FROM (
  SELECT {_PIPELINE} {_FROM}
  WHERE (CAST(:after AS text) IS NULL OR p.name > :after) AND (CAST(:project AS text) IS NULL OR p.project = :project)
    AND {visible("p.project")}
  ORDER BY p.name LIMIT :limit
) x
"""

_VERSIONS = f"""
SELECT x.version, row_to_json(x)::text FROM (
  SELECT d.name, d.version, COALESCE(d.content ->> 'description', '') AS description, d.content_hash,
    {times("d", "created_at")}, d.content AS definition
  FROM pipelines p JOIN specs d ON d.pipeline_id = p.id
  WHERE p.name = :name AND (CAST(:after AS integer) IS NULL OR d.version < :after) ORDER BY d.version DESC LIMIT :limit
) x
"""


def pipeline_detail(unit: UnitOfWork, name: str) -> str | None:
    """A pipeline with its newest definition."""
    return one(unit, _DETAIL, {"name": name})


def pipelines_page(
    unit: UnitOfWork, after: str | None, limit: int, *, project: str | None, projects: Projects
) -> list[Row]:
    """Pipelines by name, without their definitions."""
    return rows(unit, _PAGE, {"after": after, "limit": limit, "project": project, "projects": project_list(projects)})


def versions_page(unit: UnitOfWork, name: str, after: int | None, limit: int) -> list[Row]:
    """The versions of a pipeline with their definitions, newest first."""
    return rows(unit, _VERSIONS, {"name": name, "after": after, "limit": limit})
