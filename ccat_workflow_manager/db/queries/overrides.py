"""Overrides as readers see them."""

from __future__ import annotations

from typing import Any

from ccat_workflow_manager.db.overrides import COLUMNS, override_of
from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.overrides import Changed, Override

_PAGE = f"""
SELECT {COLUMNS} FROM overrides o WHERE o.id > :after AND o.until > now() AND {visible("o.project")}
ORDER BY o.id LIMIT :limit
"""
_ONE = f"SELECT {COLUMNS} FROM overrides o WHERE o.id = :id"
_IN = f"""
SELECT {COLUMNS} FROM overrides o
WHERE o.project = :project AND o.kind IN ('project', 'pipeline', 'breaker') AND o.until > now()
ORDER BY o.until LIMIT 50
"""
_OF = f"SELECT {COLUMNS} FROM overrides o WHERE o.kind = :kind AND o.name = :name AND o.until > now() ORDER BY o.field"


def overrides_page(unit: UnitOfWork, after: int, limit: int, projects: Projects = None) -> list[Override]:
    return _found(unit, _PAGE, {"after": after, "limit": limit, "projects": project_list(projects)})


def one_override(unit: UnitOfWork, override_id: int) -> Override | None:
    return next(iter(_found(unit, _ONE, {"id": override_id})), None)


def overrides_in(unit: UnitOfWork, project: str) -> list[Override]:
    """What is changed in a project until a certain time, but for single runs; what ends next comes first."""
    return _found(unit, _IN, {"project": project})


def overrides_of(unit: UnitOfWork, kind: Changed, name: str) -> list[Override]:
    """What is changed of this until a certain time."""
    return _found(unit, _OF, {"kind": kind, "name": name})


def _found(unit: UnitOfWork, statement: str, values: dict[str, Any]) -> list[Override]:
    return [override_of(record) for record in unit.records(statement, values)]
