"""The search field: what a text names exactly or begins, each by an index."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork

_MOST = 8

_BY_JOB = (
    "SELECT step_run_id FROM attempts WHERE backend = ANY(ARRAY(SELECT name FROM backends)) AND job_id = :q LIMIT 8"
)
_RUNS_BETWEEN = "SELECT id FROM runs WHERE id BETWEEN :first AND :last ORDER BY id DESC LIMIT 8"
_PIPELINES = "SELECT name FROM pipelines WHERE name >= :q AND starts_with(name, :q) ORDER BY name LIMIT 8"
_BY_LABEL = "SELECT id FROM runs WHERE labels @> CAST(:label AS jsonb) ORDER BY id DESC LIMIT 1"
_EXACT = """
SELECT 'runs' AS kind, id FROM runs WHERE id = :id
UNION ALL SELECT 'step-runs', id FROM step_runs WHERE id = :id
UNION ALL SELECT 'products', id FROM products WHERE id = :id
"""


def find(unit: UnitOfWork, q: str) -> list[tuple[str, str]]:
    """Addresses with a word for each: an id or its beginning, a job id, a pipeline, a label `name:value`."""
    found: list[tuple[str, str]] = []
    if (exact := _uuid(q)) is not None:
        found += [(f"/{row[0]}/{row[1]}", row[0]) for row in unit.execute(_EXACT, {"id": exact})]
    elif (span := _span(q)) is not None:
        found += [
            (f"/runs/{row[0]}", "run") for row in unit.execute(_RUNS_BETWEEN, {"first": span[0], "last": span[1]})
        ]
    found += [(f"/step-runs/{row[0]}", "job") for row in unit.execute(_BY_JOB, {"q": q})]
    found += [(f"/pipelines/{row[0]}", "pipeline") for row in unit.execute(_PIPELINES, {"q": q})]
    name, colon, value = q.partition(":")
    if colon and unit.execute(_BY_LABEL, {"label": json.dumps({name: value})}).first():
        found.append((f"label {q}", "label"))
    return found[:_MOST]


def _uuid(q: str) -> UUID | None:
    try:
        return UUID(q)
    except ValueError:
        return None


def _span(q: str) -> tuple[UUID, UUID] | None:
    """The ids that begin with these hexadecimal digits."""
    digits = q.replace("-", "").lower()
    if not 6 <= len(digits) < 32 or any(digit not in "0123456789abcdef" for digit in digits):
        return None
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


def events(unit: UnitOfWork, before: tuple[int, int] | None, limit: int) -> list[dict[str, Any]]:
    """The newest events of all runs and backends, before a place."""
    values = {"position": before[0] if before else 2**63 - 1, "event_id": before[1] if before else 2**63 - 1}
    return unit.records(_EVENTS, {**values, "limit": limit})


_EVENTS = """
SELECT e.position, e.id, e.at, e.event, e.to_status, e.attempt, e.actor, e.reason, e.text, e.backend,
  e.run_id::text AS run_id, e.step_run_id::text AS step_run_id, s.step, s.key, r.pipeline
FROM (SELECT * FROM events WHERE (position, id) < (:position, :event_id) ORDER BY position DESC, id DESC LIMIT :limit) e
LEFT JOIN step_runs s ON s.id = e.step_run_id LEFT JOIN runs r ON r.id = e.run_id
ORDER BY e.position DESC, e.id DESC
"""
