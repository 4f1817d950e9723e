"""Overrides as readers see them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.overrides import COLUMNS, override_of
from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.overrides import Changed, Override

MOST_OF_RUN = 8

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

_OF_RUN = f"""
SELECT {COLUMNS} FROM overrides o WHERE o.until > now() AND (o.kind = 'run' AND o.name = CAST(:run_id AS text)
  OR o.kind = 'breaker' AND o.name IN (SELECT s.breaker_key::text FROM step_runs s WHERE s.run_id = :run_id))
ORDER BY o.kind DESC, o.name, o.field LIMIT {MOST_OF_RUN}
"""
# What is alike for many step runs of a step is one entry. One that stands for several has no id.
_OF_STEP_RUNS = f"""
SELECT CASE count(*) WHEN 1 THEN min(o.id) ELSE 0 END AS id, min(o.kind) AS kind, min(o.name) AS name, o.field,
  min(o.project) AS project,
  CASE count(*) WHEN 1 THEN min(o.title) ELSE count(*) || ' step runs of ' || s.step END AS title,
  o.before, o.value, o.why, o.actor, min(o.since) AS since, o.until
FROM step_runs s JOIN overrides o ON o.kind = 'step run' AND o.name = s.id::text
WHERE s.run_id = :run_id AND o.until > now()
GROUP BY s.step, o.field, o.before, o.value, o.why, o.actor, o.until ORDER BY count(*) DESC, s.step LIMIT {MOST_OF_RUN}
"""
_OF_STEP_RUN = f"""
SELECT {COLUMNS} FROM step_runs s JOIN overrides o ON o.until > now() AND (o.kind = 'step run' AND o.name = s.id::text
  OR o.kind = 'run' AND o.name = s.run_id::text OR o.kind = 'breaker' AND o.name = s.breaker_key::text)
WHERE s.id = :id ORDER BY o.kind DESC, o.field
"""


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


def overrides_of_run(unit: UnitOfWork, run_id: UUID) -> list[Override]:
    """What is changed of a run, of its step runs, and of the breakers of these."""
    values = {"run_id": run_id}
    return _found(unit, _OF_RUN, values) + _found(unit, _OF_STEP_RUNS, values)


def overrides_of_step_run(unit: UnitOfWork, step_run_id: UUID) -> list[Override]:
    """What is changed of a step run, of its run, and of its breaker."""
    return _found(unit, _OF_STEP_RUN, {"id": step_run_id})


def _found(unit: UnitOfWork, statement: str, values: dict[str, Any]) -> list[Override]:
    return [override_of(record) for record in unit.records(statement, values)]
