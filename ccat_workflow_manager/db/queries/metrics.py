"""Numbers for Prometheus. Each query is bounded: none goes through all runs or all events."""

from __future__ import annotations

from dataclasses import dataclass

from ccat_workflow_manager.db.breakers import HELD_BACK, IN_FULL_PLACE
from ccat_workflow_manager.db.conditions import READY
from ccat_workflow_manager.db.feed_epoch import BELOW
from ccat_workflow_manager.db.holds import ON_HOLD
from ccat_workflow_manager.db.queries.feed import Place
from ccat_workflow_manager.db.quotas import AT_LIMIT
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.transitions import REQUEUED
from ccat_workflow_manager.lifecycle.event_types import PREFIX, events_of
from ccat_workflow_manager.lifecycle.states import Event, Status

_MOST_COUNTED = 100_000
MOST_LOOKED_AT = 20_000
_ENDS, _ = events_of(f"{PREFIX}step_run.{end}" for end in ("completed", "failed", "cancelled", "skipped"))

_ENDED = f"""
WITH looked_at AS MATERIALIZED (
  SELECT position, id, step_run_id, run_id, event, to_status, reason, text FROM events
  WHERE (position, id) > (:position, :event_id) AND position < {BELOW}
  ORDER BY position, id LIMIT {MOST_LOOKED_AT}
)
SELECT r.pipeline, s.step, s.backend, e.to_status AS outcome, COALESCE(e.reason, '') AS reason,
  extract(epoch FROM COALESCE(s.submitted_at, s.finished_at) - s.created_at)::float8 AS pending,
  extract(epoch FROM COALESCE(s.started_at, s.finished_at) - s.submitted_at)::float8 AS submitted,
  extract(epoch FROM s.finished_at - s.started_at)::float8 AS running
FROM looked_at e JOIN step_runs s ON s.id = e.step_run_id JOIN runs r ON r.id = e.run_id
WHERE e.event IN ({", ".join(f"'{event}'" for event in sorted(_ENDS))})
  AND (e.event <> '{Event.CANCELLED}' OR e.text IS DISTINCT FROM :requeued)
"""
_LOOKED_UP_TO = f"""
SELECT position, id FROM (
  SELECT position, id FROM events WHERE (position, id) > (:position, :event_id) AND position < {BELOW}
  ORDER BY position, id LIMIT {MOST_LOOKED_AT}
) e ORDER BY position DESC, id DESC LIMIT 1
"""

_READY_CAUSE = f"""CASE
  WHEN s.cancel_requested_at IS NOT NULL THEN 'cancel'
  WHEN {ON_HOLD} THEN 'hold'
  WHEN {HELD_BACK} THEN 'breaker'
  WHEN s.not_before > now() THEN 'backoff'
  WHEN n.problem IS NOT NULL THEN 'backend_away'
  WHEN {AT_LIMIT} THEN 'quota'
  WHEN {IN_FULL_PLACE} THEN 'full'
  WHEN NOT n.served THEN 'no_worker'
  ELSE 'worker' END"""

_WAITING = f"""
WITH names AS (
  SELECT b.name, b.problem, EXISTS (SELECT 1 FROM workers w WHERE b.name = ANY(w.backends)) AS served FROM backends b
  UNION SELECT DISTINCT s.backend, NULL, EXISTS (SELECT 1 FROM workers w WHERE s.backend = ANY(w.backends))
  FROM (SELECT DISTINCT backend FROM step_runs WHERE {READY}) s
  WHERE s.backend NOT IN (SELECT name FROM backends)
), waits AS (
  SELECT n.name AS backend, x.cause, x.since FROM names n CROSS JOIN LATERAL (
    (SELECT {_READY_CAUSE} AS cause, s.created_at AS since FROM step_runs s
     WHERE {READY} AND s.backend = n.name LIMIT {_MOST_COUNTED})
    UNION ALL
    (SELECT 'scheduler', s.submitted_at FROM step_runs s
     WHERE s.status IN ('{Status.SUBMITTED}', '{Status.RUNNING}') AND s.backend = n.name
       AND s.status = '{Status.SUBMITTED}' ORDER BY s.id LIMIT {_MOST_COUNTED})
  ) x
)
SELECT backend, cause, count(*) AS waiting, extract(epoch FROM now() - min(since))::float8 AS oldest
FROM waits GROUP BY backend, cause
"""

_BACKENDS = """
SELECT name, problem IS NULL FROM backends
UNION SELECT served.name, true FROM (SELECT DISTINCT unnest(backends) AS name FROM workers) served
WHERE served.name NOT IN (SELECT name FROM backends)
"""
_LAG = f"""
SELECT COALESCE(greatest(extract(epoch FROM clock_timestamp() - min(at)), 0), 0)::float8
FROM events WHERE position >= {BELOW}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an attempt or of a step run, and for how many seconds it was in each status; None: not at all."""

    pipeline: str
    step: str
    backend: str
    outcome: str
    reason: str
    pending: float | None
    submitted: float | None
    running: float | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many step runs of a backend wait for one cause (counted up to 100,000), and the age of the oldest."""

    backend: str
    cause: str
    waiting: int
    oldest: float


def ended_behind(unit: UnitOfWork, after: Place) -> tuple[list[Ended], Place]:
    """The step runs that ended behind a place, and how far was looked. The unit needs one snapshot."""
    parameters = after._asdict()
    found = unit.rows(Ended, _ENDED, {**parameters, "requeued": REQUEUED})
    last = unit.execute(_LOOKED_UP_TO, parameters).first()
    return found, after if last is None else Place(*last)


def waiting(unit: UnitOfWork) -> list[Waiting]:
    return unit.rows(Waiting, _WAITING)


def backends_up(unit: UnitOfWork) -> dict[str, bool]:
    """By backend, whether workers can use it."""
    return dict(unit.execute(_BACKENDS).tuples)


def events_lag(unit: UnitOfWork) -> float:
    """The age in seconds of the oldest event that readers cannot see yet."""
    found: float = unit.execute(_LAG).scalar_one()
    return found
