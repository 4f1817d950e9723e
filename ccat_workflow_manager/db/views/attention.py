"""Step runs that wait for a person."""

from __future__ import annotations

from uuid import UUID

from ccat_workflow_manager.core.attention import MARK
from ccat_workflow_manager.core.states import LIVE
from ccat_workflow_manager.db.schema import quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.sql import Row, rows, times

_WHERE = f"s.status IN ({quoted(LIVE)}) AND starts_with(s.waiting_for, :mark)"

_PAGE = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT s.id, s.run_id, r.pipeline, s.step, s.key, s.backend, s.job_id, substr(s.waiting_for, {len(MARK) + 1}) AS text,
    {times("s", "submitted_at")}
  FROM step_runs s JOIN runs r ON r.id = s.run_id
  WHERE {_WHERE} AND (CAST(:after AS uuid) IS NULL OR s.id > :after) ORDER BY s.id LIMIT :limit
) x
"""


def attention_page(unit: UnitOfWork, after: UUID | None, limit: int) -> list[Row]:
    """What only a person can help on, the oldest first."""
    return rows(unit, _PAGE, {"after": after, "limit": limit, "mark": MARK})


def attention_count(unit: UnitOfWork) -> int:
    found: int = unit.execute(f"SELECT count(*) FROM step_runs s WHERE {_WHERE}", {"mark": MARK}).scalar_one()
    return found
