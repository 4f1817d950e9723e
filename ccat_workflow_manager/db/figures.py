"""Keeps the figures: folds new events into them, in one place and behind the writers of runs.

The writers of runs write events, and nothing else for the figures. A loop of a manager reads the events behind the
place of the figures, below the oldest transaction that still runs, adds them and moves the place: one transaction, so
each event counts once, whatever dies when.
"""

from __future__ import annotations

from ccat_workflow_manager.db.conditions import quoted
from ccat_workflow_manager.db.feed_epoch import BELOW
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.durations import LAST_CLASS, NO_DURATION, SHORTEST
from ccat_workflow_manager.lifecycle.event_types import RunEvent
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, FINISHED, Event, Status

MINUTE, QUARTER, DAY = 60, 900, 86_400
KEPT_DAYS = {MINUTE: 2, QUARTER: 15}
"""How long the short times are kept. Days are kept for ever."""
ALL = "*"
"""In place of a pipeline and of a step: all of them together."""
AT_ONCE = 20_000
_LOCK = 0x66696775

_PLACE = "SELECT position FROM figures_place"
_BEGIN = "INSERT INTO figures_place (position) VALUES (0)"
_UP_TO = f"""
SELECT max(position), count(*) FROM (
  SELECT position FROM events WHERE position > :place AND position < {BELOW} ORDER BY position, id LIMIT :most) e
"""


def _class(seconds: str) -> str:
    """SQL for the class of a duration (`lifecycle.durations`)."""
    return f"""CASE WHEN {seconds} IS NULL THEN {NO_DURATION} WHEN {seconds} < {SHORTEST} THEN 0
      ELSE LEAST({LAST_CLASS}, 1 + floor(2 * ln({seconds} / {SHORTEST}) / ln(2.0::float8)))::int END"""


def _look_up(columns: str, table: str, condition: str, name: str) -> str:
    """SQL that joins at most one row by its key. OFFSET makes PostgreSQL look up each, never read the whole table."""
    return f"LEFT JOIN LATERAL (SELECT {columns} FROM {table} WHERE {condition} OFFSET 0) {name} ON true"


_RAN = "COALESCE(a.wall_time_seconds, extract(epoch FROM a.finished_at - a.started_at)::float8)"
_TOOK = "extract(epoch FROM e.at - r.started_at)::float8"

_EACH = f"""
SELECT c.at, '' AS step, COALESCE(r.pipeline, '') AS pipeline, c.project, '' AS backend, 'CREATED' AS outcome,
  '' AS reason, {NO_DURATION} AS bucket
FROM (SELECT run_id, min(at) AS at, min(project) AS project FROM e WHERE event = '{Event.CREATED}' GROUP BY run_id) c
{_look_up("pipeline", "runs", "id = c.run_id", "r")}
UNION ALL
SELECT e.at, '', COALESCE(r.pipeline, ''), e.project, '', e.to_status, '', {_class(_TOOK)}
FROM e {_look_up("pipeline, started_at", "runs", "id = e.run_id", "r")} WHERE e.event = '{RunEvent.FINISHED}'
UNION ALL
SELECT e.at, COALESCE(s.step, '?'), COALESCE(r.pipeline, ''), e.project, COALESCE(a.backend, ''),
  CASE e.event WHEN '{Event.JOB_SUBMITTED}' THEN 'STARTED' WHEN '{Event.RETRIED}' THEN 'RETRIED' ELSE e.to_status END,
  COALESCE(e.reason, ''),
  CASE WHEN e.to_status IN ({quoted(FINISHED)}) THEN {_class(_RAN)} ELSE {NO_DURATION} END
FROM e {_look_up("step", "step_runs", "id = e.step_run_id", "s")} {_look_up("pipeline", "runs", "id = e.run_id", "r")}
{_look_up("*", "attempts", "step_run_id = e.step_run_id AND number = e.attempt", "a")}
WHERE e.step_run_id IS NOT NULL
  AND (e.to_status IN ({quoted(FINISHED)}) OR e.event IN ('{Event.JOB_SUBMITTED}', '{Event.RETRIED}'))
"""
"""What the events `e` count for. Those of a run that is deleted meanwhile have no pipeline.

The events of one creation have one position, so no run is counted as created twice if `e` has whole positions.
"""

HAPPENED = f"""
SELECT h.at, w.step, w.pipeline, h.project, w.backend, h.outcome, w.reason, w.bucket
FROM ({_EACH}) h CROSS JOIN LATERAL (VALUES
  (h.step, h.pipeline, h.backend, h.reason, h.bucket),
  (CASE h.step WHEN '' THEN '' ELSE '{ALL}' END, '{ALL}', '',
    CASE h.outcome WHEN '{Status.FAILED}' THEN h.reason ELSE '' END, {NO_DURATION})
) w(step, pipeline, backend, reason, bucket)
"""
"""The same, each once for its pipeline and once for all together: a chart of the service reads few rows."""

EVENTS = """
e AS MATERIALIZED (
  SELECT step_run_id, run_id, project, at, event, from_status, to_status, attempt, reason FROM events
  WHERE position > :place AND position <= :up_to AND run_id IS NOT NULL
)"""


def begins(at: str, seconds: str) -> str:
    """SQL for the begin of the time of this length into which `at` falls, counted in UTC."""
    return f"to_timestamp(floor(extract(epoch FROM {at}) / {seconds}) * {seconds})"


_TIMES = ", ".join(f"({seconds}, {KEPT_DAYS.get(seconds, 0)})" for seconds in (MINUTE, QUARTER, DAY))
_FOLD = f"""
WITH {EVENTS}, counted AS (
  INSERT INTO figures (seconds, begin, step, pipeline, project, backend, outcome, reason, bucket, number)
  SELECT t.seconds, {begins("h.at", "t.seconds")}, h.step, h.pipeline, h.project, h.backend, h.outcome, h.reason,
    h.bucket, count(*)
  FROM ({HAPPENED}) h CROSS JOIN (VALUES {_TIMES}) t(seconds, days)
  WHERE t.days = 0 OR h.at > now() - make_interval(days => t.days)
  GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
  ON CONFLICT (seconds, begin, step, pipeline, project, backend, outcome, reason, bucket)
    DO UPDATE SET number = figures.number + excluded.number
), moved AS (
  INSERT INTO live_figures (project, status, number)
  SELECT m.project, m.status, sum(m.number) FROM (
    SELECT project, to_status AS status, 1 AS number FROM e WHERE step_run_id IS NOT NULL
    UNION ALL SELECT project, from_status, -1 FROM e WHERE step_run_id IS NOT NULL) m
  WHERE m.status IN ({quoted(CANCELLABLE)}) GROUP BY 1, 2 HAVING sum(m.number) <> 0
  ON CONFLICT (project, status) DO UPDATE SET number = live_figures.number + excluded.number
)
UPDATE figures_place SET position = :up_to
"""

_FORGET = "DELETE FROM figures WHERE seconds = :seconds AND begin < now() - make_interval(days => :days)"


def fold(unit: UnitOfWork, at_once: int = AT_ONCE) -> bool:
    """Count the next events. Returns whether there are more. Another process that does it is left alone."""
    if not unit.execute("SELECT pg_try_advisory_xact_lock(:lock)", {"lock": _LOCK}).scalar_one():
        return False
    place = unit.execute(_PLACE).scalar()
    if place is None:
        unit.execute(_BEGIN)
        place = 0
    up_to, found = unit.execute(_UP_TO, {"place": place, "most": at_once}).one()
    if found:
        unit.execute(_FOLD, {"place": place, "up_to": up_to})
    return bool(found == at_once)


def forget(unit: UnitOfWork) -> None:
    """Delete the figures of short times that are old."""
    for seconds, days in KEPT_DAYS.items():
        unit.execute(_FORGET, {"seconds": seconds, "days": days})
