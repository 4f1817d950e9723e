"""What an action on many runs would do, counted before it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.conditions import counter, quoted
from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.queries.run_filter import RunFilter
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, RETRYABLE, Status

MOST_RUNS = 5000

_ELIGIBLE = {
    "cancel": "r.finished_at IS NULL AND r.cancel_requested_at IS NULL",
    "retry": f"({' + '.join(f'r.{counter(status)}' for status in Status if status in RETRYABLE)}) > 0",
    "pause": "r.finished_at IS NULL AND NOT r.paused",
    "resume": "r.finished_at IS NULL AND r.paused",
    "priority": "r.finished_at IS NULL",
    "label": "true",
}
VERBS = tuple(_ELIGIBLE)

_COUNTS = ", ".join(f"r.{counter(status)} AS {status}" for status in Status)

_RUNS = f"""
SELECT r.id, r.status, %eligible% AS eligible, r.pipeline, r.priority, r.labels, %counts% FROM runs r
WHERE r.id = ANY(:ids) AND {visible("r.project")} ORDER BY r.id DESC
"""

_REOPENED = f"""
SELECT s.step, s.status, COALESCE(s.reason, '') AS reason, count(*) AS count,
  max((s.resources ->> 'memory_gb')::float8) AS memory,
  count(*) FILTER (WHERE s.breaker_key IN (SELECT breaker_key FROM breakers WHERE opened_at IS NOT NULL)) AS held_back
FROM step_runs s WHERE s.run_id = ANY(:ids) AND s.status IN ({quoted(RETRYABLE)})
GROUP BY s.step, s.status, s.reason ORDER BY count(*) DESC LIMIT 12
"""

_OF_BREAKER = f"""
SELECT DISTINCT x.run_id FROM (SELECT s.run_id FROM step_runs s
  WHERE s.status = 'PENDING' AND s.unmet = 0 AND NOT s.held AND s.breaker_key = :breaker LIMIT 10000) x
LIMIT {MOST_RUNS}
"""

_STEP_RUN = f"""
SELECT s.id, s.run_id, s.step, s.key, s.status, s.status IN ({quoted(CANCELLABLE)}) AS cancellable,
  s.status IN ({quoted(RETRYABLE)}) AS retryable, s.reason, s.backend, s.resources, r.project
FROM step_runs s JOIN runs r ON r.id = s.run_id WHERE s.id = :id AND {visible("r.project")}
"""


def matching(unit: UnitOfWork, wanted: RunFilter, verb: str) -> list[UUID]:
    """The newest runs that match a filter and that the action can change, up to MOST_RUNS."""
    where, values = wanted.conditions()
    where.append(_ELIGIBLE[verb])
    statement = f"SELECT r.id FROM runs r WHERE {' AND '.join(where)} ORDER BY r.id DESC LIMIT {MOST_RUNS}"
    return [row[0] for row in unit.execute(statement, values)]


def of_breaker(unit: UnitOfWork, breaker: UUID) -> list[UUID]:
    """The runs with step runs that a breaker holds back."""
    return [row[0] for row in unit.execute(_OF_BREAKER, {"breaker": breaker})]


def chosen(unit: UnitOfWork, ids: Sequence[UUID], verb: str, projects: Projects) -> list[dict[str, Any]]:
    """The chosen runs of these projects, and whether the action can change each of them."""
    statement = _RUNS.replace("%eligible%", _ELIGIBLE[verb]).replace("%counts%", _COUNTS)
    return unit.records(statement, {"ids": list(ids), "projects": project_list(projects)})


def reopened(unit: UnitOfWork, ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """What a retry of these runs would open again, by step and reason."""
    return unit.records(_REOPENED, {"ids": list(ids)})


def step_run(unit: UnitOfWork, step_run_id: UUID, projects: Projects) -> dict[str, Any] | None:
    found = unit.records(_STEP_RUN, {"id": step_run_id, "projects": project_list(projects)})
    return found[0] if found else None
