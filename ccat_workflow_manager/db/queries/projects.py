"""Projects as JSON, with their limits and what they use of them."""

from __future__ import annotations

from ccat_workflow_manager.db.queries import Row, one, project_list, rows, visible
from ccat_workflow_manager.db.quotas import QUEUED, USE
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.definition.project import DEFAULT_PROJECT
from ccat_workflow_manager.identity import Projects

_NAMES = f"""
SELECT name FROM projects UNION SELECT project FROM pipelines UNION SELECT project FROM lanes
UNION SELECT '{DEFAULT_PROJECT}'
"""
_PROJECT = f"""
SELECT q.name, COALESCE(p.weight, 1) AS weight, p.max_live, p.max_cpus, p.max_queued, u.live, u.cpus,
  ({QUEUED}) AS queued
FROM ({_NAMES}) q LEFT JOIN projects p ON p.name = q.name CROSS JOIN LATERAL ({USE}) u
"""
_PAGE = f"""
SELECT x.name, row_to_json(x)::text FROM (
  {_PROJECT} WHERE (CAST(:after AS text) IS NULL OR q.name > :after) AND {visible("q.name")}
  ORDER BY q.name LIMIT :limit
) x
"""
_DETAIL = f"SELECT row_to_json(x)::text FROM ({_PROJECT} WHERE q.name = :name) x"


def projects_page(unit: UnitOfWork, after: str | None, limit: int, projects: Projects = None) -> list[Row]:
    return rows(unit, _PAGE, {"after": after, "limit": limit, "projects": project_list(projects)})


def project_detail(unit: UnitOfWork, name: str) -> str | None:
    return one(unit, _DETAIL, {"name": name})
