"""The search field: what a text names exactly or begins, each by an index, and runs whose ids end with it."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.conditions import LABELLED
from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.queries.run_filter import NEWEST, SEARCHED_RUNS
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects

_MOST = 8
_PART_OF_ID = re.compile("-*([0-9a-fA-F]-*){6,31}")

_VISIBLE = visible("r.project")
_BY_JOB = f"""
SELECT a.step_run_id FROM attempts a JOIN step_runs s ON s.id = a.step_run_id JOIN runs r ON r.id = s.run_id
WHERE a.backend = ANY(ARRAY(SELECT name FROM backends)) AND a.job_id = :q AND {_VISIBLE} LIMIT 8
"""
_RUNS_BETWEEN = f"SELECT r.id FROM runs r WHERE r.id BETWEEN :first AND :last AND {_VISIBLE} ORDER BY r.id DESC LIMIT 8"
_ENDING = (
    f"SELECT r.id FROM runs r WHERE {NEWEST} AND r.id::text LIKE :ending AND {_VISIBLE} ORDER BY r.id DESC LIMIT 8"
)
_PIPELINES = f"""
SELECT r.name FROM pipelines r WHERE r.name >= :q AND starts_with(r.name, :q) AND {_VISIBLE} ORDER BY r.name LIMIT 8
"""
_BY_LABEL = f"""
SELECT r.id FROM runs r WHERE r.labels @> CAST(:label AS jsonb) AND r.{LABELLED} AND {_VISIBLE}
ORDER BY r.id DESC LIMIT 1
"""
_EXACT = f"""
SELECT 'runs' AS kind, r.id FROM runs r WHERE r.id = :id AND {_VISIBLE}
UNION ALL SELECT 'step-runs', s.id FROM step_runs s JOIN runs r ON r.id = s.run_id WHERE s.id = :id AND {_VISIBLE}
UNION ALL SELECT 'products', p.id FROM products p JOIN runs r ON r.id = p.run_id WHERE p.id = :id AND {_VISIBLE}
"""


def find(unit: UnitOfWork, q: str, projects: Projects) -> list[tuple[str, str]]:
    """Addresses with a word for each: an id, its beginning or end, a job id, a pipeline, a label `name:value`."""
    found: list[tuple[str, str]] = []
    seen = {"projects": project_list(projects)}
    if (exact := _uuid(q)) is not None:
        found += [(f"/{row[0]}/{row[1]}", row[0]) for row in unit.execute(_EXACT, {"id": exact, **seen})]
    elif _PART_OF_ID.fullmatch(q):
        found += [(f"/runs/{each}", "run") for each in _runs(unit, q.lower(), seen)]
    found += [(f"/step-runs/{row[0]}", "job") for row in unit.execute(_BY_JOB, {"q": q, **seen})]
    found += [(f"/pipelines/{row[0]}", "pipeline") for row in unit.execute(_PIPELINES, {"q": q, **seen})]
    name, colon, value = q.partition(":")
    if colon and unit.execute(_BY_LABEL, {"label": json.dumps({name: value}), **seen}).first():
        found.append((f"label {q}", "label"))
    return found[:_MOST]


def _runs(unit: UnitOfWork, part: str, seen: dict[str, Any]) -> list[UUID]:
    """The newest runs whose ids begin with these characters, else those that end with them."""
    first, last = part.replace("-", "").ljust(32, "0"), part.replace("-", "").ljust(32, "f")
    found = [row[0] for row in unit.execute(_RUNS_BETWEEN, {"first": UUID(first), "last": UUID(last), **seen})]
    ending = {"ending": f"%{part}", "window": SEARCHED_RUNS, **seen}
    return found or [row[0] for row in unit.execute(_ENDING, ending)]


def _uuid(q: str) -> UUID | None:
    try:
        return UUID(q)
    except ValueError:
        return None
