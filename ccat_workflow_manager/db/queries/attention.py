"""Step runs that wait for an action of an operator, and those with an orphan job that does not stop."""

from __future__ import annotations

from uuid import UUID

from ccat_workflow_manager.db.conditions import quoted
from ccat_workflow_manager.db.queries import Row, project_list, rows, times, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE
from ccat_workflow_manager.lifecycle.waiting import ACTION_REQUIRED

_DISK_HOURS = 24
"""For so long a step run that ended on a full disk is shown: an operator has to make room."""
_CANCEL_MINUTES = 10
"""A cancel that is not confirmed by then will hardly be confirmed without an operator."""

DISK_FULL = f"""s.reason = '{FailureReason.DISK_FULL}'
    AND (s.status = 'PENDING' OR s.status = 'FAILED' AND s.finished_at > now() - interval '{_DISK_HOURS} hours')"""
"""`step_runs s` ended on a full disk, which is not long ago or will be tried again."""

# Each part finds few rows by an index: jobs at backends, cancel requests, step runs of open breakers that try no probe,
# orphan jobs that a second sweep found, and ends on a full disk. A step run in several parts is shown once, with the
# text of the first.
WANTED = f"""
  SELECT s.id, 1 AS rank, s.job_id, substr(s.waiting_for, {len(ACTION_REQUIRED) + 1}) AS text
  FROM step_runs s WHERE s.status IN ({quoted(LIVE)}) AND starts_with(s.waiting_for, :mark)
UNION ALL
  SELECT s.id, 2, s.job_id, concat('cancel not confirmed for ',
    floor(extract(epoch FROM now() - s.cancel_requested_at) / 60), ' min', ': ' || s.waiting_for)
  FROM step_runs s WHERE s.cancel_requested_at < now() - interval '{_CANCEL_MINUTES} minutes'
    AND s.status IN ({quoted(CANCELLABLE)})
UNION ALL
  SELECT s.id, 3, NULL,
    concat('held back: ', b.reason_text, '; no probe is planned; release with `ccat-wm breakers release ',
      b.breaker_key, '`')
  FROM breakers b JOIN step_runs s ON s.breaker_key = b.breaker_key AND s.status = 'PENDING' AND s.unmet = 0
    AND NOT s.held AND s.cancel_requested_at IS NULL
  WHERE b.opened_at IS NOT NULL AND b.probe IS NULL AND b.probe_at IS NULL
UNION ALL
  SELECT n.id, 4, n.job_id, concat('the job ', n.job_id, ' of attempt ', n.number,
    ' does not stop although the attempt is over: stop it at ', b.name, '; ' || b.reap_problem)
  FROM backends b, jsonb_to_recordset(b.strays) AS n(id uuid, number integer, job_id text, looks integer)
  WHERE n.looks > 1 OR b.reap_problem IS NOT NULL
UNION ALL
  SELECT s.id, 5, s.job_id, s.reason_text FROM step_runs s
  WHERE {DISK_FULL}
"""
"""The step runs that need an operator, once for each part that finds them."""

_PAGE = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT s.id, s.run_id, r.project, r.pipeline, s.step, s.key, s.backend, w.job_id, w.text, {times("s", "submitted_at")}
  FROM (SELECT DISTINCT ON (id) id, job_id, text FROM ({WANTED}) w ORDER BY id, rank) w
  JOIN step_runs s ON s.id = w.id JOIN runs r ON r.id = s.run_id
  WHERE (CAST(:after AS uuid) IS NULL OR s.id > :after) AND {visible("r.project")} ORDER BY s.id LIMIT :limit
) x
"""

_COUNT = f"SELECT count(DISTINCT w.id) FROM ({WANTED}) w JOIN step_runs s ON s.id = w.id"
_COUNT_VISIBLE = f"{_COUNT} JOIN runs r ON r.id = s.run_id WHERE {visible('r.project')}"


def attention_page(unit: UnitOfWork, after: UUID | None, limit: int, projects: Projects = None) -> list[Row]:
    """The step runs that need an operator, the oldest first."""
    return rows(
        unit, _PAGE, {"after": after, "limit": limit, "mark": ACTION_REQUIRED, "projects": project_list(projects)}
    )


def attention_count(unit: UnitOfWork, projects: Projects = None) -> int:
    statement, values = (_COUNT, {}) if projects is None else (_COUNT_VISIBLE, {"projects": sorted(projects)})
    found: int = unit.execute(statement, {"mark": ACTION_REQUIRED, **values}).scalar_one()
    return found
