"""Backends: whether they can be used, which worker polls them, and how much there is to do for each."""

from __future__ import annotations

from dataclasses import dataclass

from ccat_workflow_manager.db.breakers import LAUNCHABLE
from ccat_workflow_manager.db.conditions import READY, quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.event_types import BackendEvent
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LEASED, LIVE, Status

_LONGEST_PROBLEM = 2000

_REPORT_PROBLEM = f"""
WITH known AS (
  SELECT problem_since FROM backends WHERE name = :name FOR NO KEY UPDATE
), reported AS (
  INSERT INTO backends (name, problem, problem_since, retry_at)
  VALUES (:name, :problem, now(), now() + :retry * interval '1 second')
  ON CONFLICT (name) DO UPDATE SET problem = excluded.problem, retry_at = excluded.retry_at,
    problem_since = COALESCE(backends.problem_since, excluded.problem_since)
)
INSERT INTO events (backend, event, to_status, attempt, actor, text, at)
SELECT :name, '{BackendEvent.AWAY}', 'AWAY', 0, 'worker', :problem, clock_timestamp()
WHERE NOT EXISTS (SELECT 1 FROM known WHERE problem_since IS NOT NULL)
"""

_MARK_HEALTHY = f"""
WITH back AS (
  UPDATE backends SET problem = NULL, problem_since = NULL, retry_at = NULL
  WHERE name = :name AND problem IS NOT NULL AND (retry_at <= now() OR problem = left(:problem, {_LONGEST_PROBLEM}))
  RETURNING name
)
INSERT INTO events (backend, event, to_status, attempt, actor, at)
SELECT name, '{BackendEvent.BACK}', 'AVAILABLE', 0, 'worker', clock_timestamp() FROM back
"""

_ACQUIRE_POLL_LEASE = """
INSERT INTO backends (name, poll_lease_until) VALUES (:name, now() + :seconds * interval '1 second')
ON CONFLICT (name) DO UPDATE SET poll_lease_until = excluded.poll_lease_until
WHERE backends.poll_lease_until IS NULL OR backends.poll_lease_until < now()
"""

_EXTEND_POLL_LEASE = """
UPDATE backends SET poll_lease_until = now() + :seconds * interval '1 second' WHERE name = :name
"""

_RELEASE_POLL_LEASE = """
UPDATE backends SET polled_at = now(), poll_lease_until = NULL,
  answered_at = CASE WHEN :answered THEN now() ELSE answered_at END
WHERE name = :name
"""

_UNPOLLED_SECONDS = """
SELECT extract(epoch FROM now() - answered_at)::float8 - :longest FROM backends WHERE name = :name
"""

_EXCLUDE_UNPOLLED_TIME = f"""
UPDATE step_runs s SET unknown_since = greatest(s.unknown_since,
  least(now(), s.unknown_since + (now() - l.last_answer) - :longest * interval '1 second'))
FROM (
  SELECT s.id, greatest(s.unknown_since, b.answered_at) AS last_answer
  FROM step_runs s JOIN backends b ON b.name = s.backend
  WHERE s.backend = :name AND s.status IN ({quoted(LIVE)}) AND s.unknown_since IS NOT NULL
  ORDER BY s.id FOR NO KEY UPDATE OF s
) l WHERE s.id = l.id
"""

_TO_CANCEL = f"cancel_requested_at IS NOT NULL AND status IN ({quoted(CANCELLABLE)})"
_UNLEASED = "(lease_until IS NULL OR lease_until < now())"


def _counted(condition: str) -> str:
    """How many step runs of backend `n` fulfil the condition, counted up to 10,000."""
    return f"(SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE backend = n.name AND {condition} LIMIT 10000) x)"


_WORKLOADS = f"""
WITH names AS (
  SELECT DISTINCT backend AS name FROM step_runs WHERE {READY}
  UNION SELECT DISTINCT backend FROM step_runs WHERE status IN ({quoted(LIVE)})
  UNION SELECT DISTINCT backend FROM step_runs WHERE status IN ({quoted(LEASED)})
  UNION SELECT DISTINCT backend FROM step_runs WHERE {_TO_CANCEL}
)
SELECT n.name AS backend,
  {_counted(LAUNCHABLE)} AS ready,
  {_counted(f"status IN ({quoted(LIVE)})")} AS live,
  {_counted(f"status = '{Status.COLLECTING_RESULTS}' AND {_UNLEASED}")} AS uncollected,
  {_counted(f"{_TO_CANCEL} AND {_UNLEASED}")} AS cancels,
  extract(epoch FROM now() - b.polled_at)::float8 AS polled_seconds_ago,
  greatest(extract(epoch FROM b.retry_at - now()), 0)::float8 AS retry_in
FROM names n LEFT JOIN backends b ON b.name = n.name
"""
"""Each name and each count is found by an index of its own."""


@dataclass(frozen=True, slots=True)
class Workload:
    """How much there is to do for one backend. The counts stop at 10,000."""

    backend: str
    ready: int = 0
    live: int = 0
    uncollected: int = 0
    cancels: int = 0
    polled_seconds_ago: float | None = None
    """Seconds since all its jobs were last polled. None: never."""
    retry_in: float | None = None
    """Seconds until workers try the backend again, while it has a problem."""


class BackendStore:
    """Reads and writes backends inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def report_problem(self, backend: str, problem: str, retry_seconds: float) -> None:
        """Record that the backend cannot be used, and when workers try it again."""
        self.unit.execute(
            _REPORT_PROBLEM, {"name": backend, "problem": problem[:_LONGEST_PROBLEM], "retry": retry_seconds}
        )

    def mark_healthy(self, backend: str, problem: str | None = None) -> None:
        """Clear the problem of a backend that has answered.

        A problem that was reported just now stays: another call may have met it. Only the caller that met it
        itself, and now got an answer to the same call, clears it at once by giving its text as `problem`.
        """
        self.unit.execute(_MARK_HEALTHY, {"name": backend, "problem": problem})

    def acquire_poll_lease(self, backend: str, seconds: float) -> bool:
        """Become the worker that polls all jobs of this backend. Returns False while another one does."""
        return self.unit.execute(_ACQUIRE_POLL_LEASE, {"name": backend, "seconds": seconds}).rowcount == 1

    def extend_poll_lease(self, backend: str, seconds: float) -> None:
        self.unit.execute(_EXTEND_POLL_LEASE, {"name": backend, "seconds": seconds})

    def release_poll_lease(self, backend: str, *, answered: bool) -> None:
        """End the poll of all jobs. `answered`: the backend answered every call of it."""
        self.unit.execute(_RELEASE_POLL_LEASE, {"name": backend, "answered": answered})
        if answered:
            self.mark_healthy(backend)

    def exclude_unpolled_time(self, backend: str, longest: float) -> None:
        """Count no more than `longest` seconds since the last answer as time in which a job was unknown."""
        more = self.unit.execute(_UNPOLLED_SECONDS, {"name": backend, "longest": longest}).scalar()
        if more is None or more > 0:
            self.unit.execute(_EXCLUDE_UNPOLLED_TIME, {"name": backend, "longest": longest})

    def workloads(self) -> list[Workload]:
        """The workload of every backend with something to do."""
        return self.unit.rows(Workload, _WORKLOADS)
