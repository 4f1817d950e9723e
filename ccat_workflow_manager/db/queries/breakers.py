"""Circuit breakers and their history as JSON."""

from __future__ import annotations

from uuid import UUID

from ccat_workflow_manager.db.breakers import probing
from ccat_workflow_manager.db.conditions import CLAIMABLE
from ccat_workflow_manager.db.queries import Row, one, project_list, rows, times, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects

_BREAKER = f"""
b.breaker_key AS id,
CASE WHEN b.opened_at IS NULL THEN 'counting' WHEN {probing("b")} THEN 'probing' ELSE 'open' END AS state,
b.project, b.pipeline, b.step, b.image, b.reason_text, jsonb_array_length(b.failures) AS failures,
b.failure_signature AS way,
(SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE b.opened_at IS NOT NULL AND {CLAIMABLE}
  AND breaker_key = b.breaker_key AND id IS DISTINCT FROM b.probe LIMIT 10000) x) AS held_back,
b.probe, {times("b", "opened_at", "probe_at", "updated_at")}
"""

_PAGE = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT {_BREAKER} FROM breakers b
  WHERE (CAST(:after AS uuid) IS NULL OR b.breaker_key > :after) AND (:counting OR b.opened_at IS NOT NULL)
    AND {visible("b.project")}
  ORDER BY b.breaker_key LIMIT :limit
) x
"""

_DETAIL = f"SELECT row_to_json(x)::text FROM (SELECT {_BREAKER} FROM breakers b WHERE b.breaker_key = :id) x"

_EVENTS = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT e.id, e.breaker_key AS breaker_id, e.project, e.pipeline, e.step, e.image, {times("e", "at")}, e.event,
    e.actor, e.text
  FROM breaker_events e WHERE e.breaker_key = :id AND e.id > :after ORDER BY e.id LIMIT :limit
) x
"""


def breakers_page(unit: UnitOfWork, after: UUID | None, limit: int, *, counting: bool, projects: Projects) -> list[Row]:
    """Open breakers; with `counting` also closed ones with failures."""
    return rows(unit, _PAGE, {"after": after, "limit": limit, "counting": counting, "projects": project_list(projects)})


def breaker_detail(unit: UnitOfWork, breaker_id: UUID) -> str | None:
    return one(unit, _DETAIL, {"id": breaker_id})


def breaker_events_page(unit: UnitOfWork, breaker_id: UUID, after: int, limit: int) -> list[Row]:
    """The history of a breaker, oldest first. It outlives the breaker."""
    return rows(unit, _EVENTS, {"id": breaker_id, "after": after, "limit": limit})
