"""Step runs that wait for a person, and those of whose attempts a job is left that does not stop."""

from __future__ import annotations

from uuid import UUID

from ccat_workflow_manager.db.schema import quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.sql import Row, rows, times
from ccat_workflow_manager.lifecycle.attention import MARK
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE

_CANCEL_MINUTES = 10
"""A cancel that is not confirmed after so long will hardly be so by itself."""

# Each is about few rows, found by an index: the jobs that there are, the cancels that are asked for, what open breakers
# hold back for ever, and what the last look for stray jobs has found again. One step run may be in several.
_WANTED = f"""
  SELECT s.id, 1 AS rank, s.job_id, substr(s.waiting_for, {len(MARK) + 1}) AS text
  FROM step_runs s WHERE s.status IN ({quoted(LIVE)}) AND starts_with(s.waiting_for, :mark)
UNION ALL
  SELECT s.id, 2, s.job_id, concat('its cancel has not been confirmed for ',
    floor(extract(epoch FROM now() - s.cancel_requested_at) / 60), ' min', ': ' || s.waiting_for)
  FROM step_runs s WHERE s.cancel_requested_at < now() - interval '{_CANCEL_MINUTES} minutes'
    AND s.status IN ({quoted(CANCELLABLE)})
UNION ALL
  SELECT s.id, 3, NULL,
    concat('held back: ', b.reason_text, '; nothing else releases it: `ccat-wm breakers release ', b.circuit, '`')
  FROM breakers b JOIN step_runs s ON s.circuit = b.circuit AND s.status = 'PENDING' AND s.unmet = 0 AND NOT s.held
    AND s.cancel_requested_at IS NULL
  WHERE b.opened_at IS NOT NULL AND b.probe IS NULL AND b.probe_at IS NULL
UNION ALL
  SELECT n.id, 4, n.job_id, concat('the job ', n.job_id, ' of its attempt ', n.number,
    ' does not stop, though that attempt is over: stop it at ', b.name, '; ' || b.reap_problem)
  FROM backends b, jsonb_to_recordset(b.strays) AS n(id uuid, number integer, job_id text, looks integer)
  WHERE n.looks > 1 OR b.reap_problem IS NOT NULL
"""

_PAGE = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT s.id, s.run_id, r.pipeline, s.step, s.key, s.backend, w.job_id, w.text, {times("s", "submitted_at")}
  FROM (SELECT DISTINCT ON (id) id, job_id, text FROM ({_WANTED}) w ORDER BY id, rank) w
  JOIN step_runs s ON s.id = w.id JOIN runs r ON r.id = s.run_id
  WHERE CAST(:after AS uuid) IS NULL OR s.id > :after ORDER BY s.id LIMIT :limit
) x
"""

_COUNT = f"SELECT count(DISTINCT w.id) FROM ({_WANTED}) w JOIN step_runs s ON s.id = w.id"


def attention_page(unit: UnitOfWork, after: UUID | None, limit: int) -> list[Row]:
    """What only a person can help on, the oldest first."""
    return rows(unit, _PAGE, {"after": after, "limit": limit, "mark": MARK})


def attention_count(unit: UnitOfWork) -> int:
    found: int = unit.execute(_COUNT, {"mark": MARK}).scalar_one()
    return found
