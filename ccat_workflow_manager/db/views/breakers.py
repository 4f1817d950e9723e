"""Circuit breakers and what happened to them."""

from __future__ import annotations

from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.statements import CLAIMABLE
from ccat_workflow_manager.db.views.sql import Row, one, rows, times

_BREAKER = f"""
b.circuit AS id,
CASE WHEN b.opened_at IS NULL THEN 'counting' WHEN b.probe IS NULL THEN 'open' ELSE 'probing' END AS state,
b.pipeline, b.step, b.image, b.reason_text, jsonb_array_length(b.failures) AS failures, b.way,
(SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE b.opened_at IS NOT NULL AND {CLAIMABLE} AND circuit = b.circuit
  AND id IS DISTINCT FROM b.probe LIMIT 10000) x) AS held_back,
b.probe, {times("b", "opened_at", "probe_at", "updated_at")}
"""

_PAGE = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT {_BREAKER} FROM breakers b
  WHERE (CAST(:after AS uuid) IS NULL OR b.circuit > :after) AND (:counting OR b.opened_at IS NOT NULL)
  ORDER BY b.circuit LIMIT :limit
) x
"""

_DETAIL = f"SELECT row_to_json(x)::text FROM (SELECT {_BREAKER} FROM breakers b WHERE b.circuit = :id) x"

_EVENTS = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT e.id, e.circuit AS breaker_id, e.pipeline, e.step, e.image, {times("e", "at")}, e.event, e.actor, e.text
  FROM breaker_events e WHERE e.circuit = :id AND e.id > :after ORDER BY e.id LIMIT :limit
) x
"""


def breakers_page(unit: UnitOfWork, after: UUID | None, limit: int, *, counting: bool) -> list[Row]:
    """Open breakers; with `counting` also those that have failures and are closed."""
    return rows(unit, _PAGE, {"after": after, "limit": limit, "counting": counting})


def breaker_detail(unit: UnitOfWork, breaker_id: UUID) -> str | None:
    return one(unit, _DETAIL, {"id": breaker_id})


def breaker_events_page(unit: UnitOfWork, breaker_id: UUID, after: int, limit: int) -> list[Row]:
    """What happened to a breaker, in order; it is kept when the breaker is gone."""
    return rows(unit, _EVENTS, {"id": breaker_id, "after": after, "limit": limit})
