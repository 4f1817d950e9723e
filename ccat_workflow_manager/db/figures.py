"""Keeps the figures: folds new events into them, in one place and behind the writers of runs.

The writers of runs write events, and nothing else for the figures. A loop of a manager reads the events behind the
place of the figures, below the oldest transaction that still runs, adds them and moves the place: one transaction, so
each event counts once, whatever dies when.
"""

from __future__ import annotations

from collections.abc import Mapping

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

_IS_BEHIND = """
SELECT coalesce((SELECT max(position) FROM events) > (SELECT coalesce(max(position), 0) FROM figures_place), false)
"""
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


def begins(at: str, seconds: str) -> str:
    """SQL for the begin of the time of this length into which `at` falls, counted in UTC."""
    return f"date_bin(make_interval(secs => {seconds}), {at}, 'epoch')"


_RAN = "COALESCE(a.wall_time_seconds, extract(epoch FROM a.finished_at - a.started_at)::float8)"
_TOOK = "extract(epoch FROM e.at - r.started_at)::float8"
_CREATED = f"e.event = '{Event.CREATED}'"
_RUN_OVER = f"e.event = '{RunEvent.FINISHED}'"
_MOVED = f"""(e.step_run_id IS NOT NULL
  AND (e.to_status IN ({quoted(FINISHED)}) OR e.event IN ('{Event.JOB_SUBMITTED}', '{Event.RETRIED}')))"""

HAPPENED = f"({_CREATED} OR {_RUN_OVER} OR {_MOVED})"
"""SQL for whether an event `e` counts in any figure. All count in the live ones."""

_EACH = f"""
SELECT c.at, '' AS step, COALESCE(r.pipeline, '') AS pipeline, c.project, '' AS backend, 'CREATED' AS outcome,
  '' AS reason, {NO_DURATION} AS bucket
FROM (SELECT e.run_id, min(e.at) AS at, min(e.project) AS project FROM e WHERE {_CREATED} GROUP BY e.run_id) c
LEFT JOIN r ON r.id = c.run_id
UNION ALL
SELECT e.at, '', COALESCE(r.pipeline, ''), e.project, '', e.to_status, '', {_class(_TOOK)}
FROM e LEFT JOIN r ON r.id = e.run_id WHERE {_RUN_OVER}
UNION ALL
SELECT e.at, COALESCE(s.step, '?'), COALESCE(r.pipeline, ''), e.project, COALESCE(a.backend, ''),
  CASE e.event WHEN '{Event.JOB_SUBMITTED}' THEN 'STARTED' WHEN '{Event.RETRIED}' THEN 'RETRIED' ELSE e.to_status END,
  COALESCE(e.reason, ''),
  CASE WHEN e.to_status IN ({quoted(FINISHED)}) THEN {_class(_RAN)} ELSE {NO_DURATION} END
FROM e LEFT JOIN s ON s.id = e.step_run_id LEFT JOIN r ON r.id = e.run_id
LEFT JOIN a ON a.step_run_id = e.step_run_id AND a.number = e.attempt
WHERE {_MOVED}
"""
"""What the events `e` count for. Those of a run that is deleted meanwhile have no pipeline.

The events of one creation have one position, so no run is counted as created twice if `e` has whole positions.
"""


def events(condition: str = "true") -> str:
    """SQL for the events `e` between two places that meet a condition, and what they are of: `r`, `s` and `a`.

    PostgreSQL reads those by their keys, all of a table at once, and never the whole table.
    """
    step_runs = "ANY(ARRAY(SELECT DISTINCT step_run_id FROM e))"
    return f"""
e AS MATERIALIZED (
  SELECT step_run_id, run_id, project, at, event, from_status, to_status, attempt, reason FROM events e
  WHERE position > :place AND position <= :up_to AND run_id IS NOT NULL AND {condition}
), r AS MATERIALIZED (
  SELECT id, pipeline, started_at FROM runs WHERE id = ANY(ARRAY(SELECT DISTINCT run_id FROM e))
), s AS MATERIALIZED (
  SELECT id, step FROM step_runs WHERE id = {step_runs}
), a AS MATERIALIZED (
  SELECT step_run_id, number, backend, wall_time_seconds, started_at, finished_at FROM attempts
  WHERE step_run_id = {step_runs}
)"""


def counted(times: Mapping[int, int]) -> str:
    """SQL for what the events `e` count for in the figures of these times: their seconds, and the days they are kept.

    Each counts once for its pipeline and once for all together: a chart of the service reads few rows.
    """
    listed = ", ".join(f"({seconds}, {days})" for seconds, days in times.items())
    return f"""
SELECT n.seconds, n.begin, w.step, w.pipeline, n.project, w.backend, n.outcome, w.reason, w.bucket,
  sum(n.number)::bigint AS number
FROM (
  SELECT t.seconds, {begins("h.at", "t.seconds")} AS begin, h.step, h.pipeline, h.project, h.backend, h.outcome,
    h.reason, h.bucket, count(*) AS number
  FROM ({_EACH}) h CROSS JOIN (VALUES {listed}) t(seconds, days)
  WHERE t.days = 0 OR h.at > now() - make_interval(days => t.days)
  GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9) n
CROSS JOIN LATERAL (VALUES
  (n.step, n.pipeline, n.backend, n.reason, n.bucket),
  (CASE n.step WHEN '' THEN '' ELSE '{ALL}' END, '{ALL}', '',
    CASE n.outcome WHEN '{Status.FAILED}' THEN n.reason ELSE '' END, {NO_DURATION})
) w(step, pipeline, backend, reason, bucket)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""


HASHED = "SET LOCAL enable_nestloop = off"
"""Before `counted`: however few events PostgreSQL expects, it compares no event with each run."""

_FOLD = f"""
WITH {events()}, counted AS (
  INSERT INTO figures (seconds, begin, step, pipeline, project, backend, outcome, reason, bucket, number)
  {counted({seconds: KEPT_DAYS.get(seconds, 0) for seconds in (MINUTE, QUARTER, DAY)})}
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


def is_behind(unit: UnitOfWork) -> bool:
    """Whether there are events that do not count yet."""
    behind: bool = unit.execute(_IS_BEHIND).scalar_one()
    return behind


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
        unit.execute(HASHED)
        unit.execute(_FOLD, {"place": place, "up_to": up_to})
    return bool(found == at_once)


def forget(unit: UnitOfWork) -> None:
    """Delete the figures of short times that are old."""
    for seconds, days in KEPT_DAYS.items():
        unit.execute(_FORGET, {"seconds": seconds, "days": days})
