"""Workers and backends as operators see them: who is there, what works, and since when not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from ccat_workflow_manager.db.schema import quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.statements import LAUNCHABLE
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much there is to do for one backend."""

    backend: str
    ready: int = 0
    live: int = 0
    uncollected: int = 0
    cancels: int = 0
    followed_seconds: float | None = None
    """Since all its jobs were last asked for."""
    retry_in: float | None = None
    """Until it is tried again, while it is unavailable."""


class FleetStore:
    """Reads and writes what is known about workers and backends."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    # --- workers ---------------------------------------------------------------------------------------------------

    def register(self, worker: str, host: str, pid: int, backends: Sequence[str]) -> None:
        self.unit.execute(
            "INSERT INTO workers (id, host, pid, backends) VALUES (:id, :host, :pid, :backends)"
            " ON CONFLICT (id) DO UPDATE SET seen_at = now(), backends = excluded.backends",
            {"id": worker, "host": host, "pid": pid, "backends": list(backends)},
        )

    def seen(self, worker: str, *, completed: int = 0) -> bool:
        """The main loop of a worker is alive; False if its row is gone and it has to register again."""
        found = self.unit.execute(
            """
            UPDATE workers SET seen_at = now(), completed = completed + :completed,
              last_completed_at = CASE WHEN :completed > 0 THEN now() ELSE last_completed_at END
            WHERE id = :id
            """,
            {"id": worker, "completed": completed},
        )
        return found.rowcount == 1

    def gone(self, worker: str) -> None:
        self.unit.execute("DELETE FROM workers WHERE id = :id", {"id": worker})

    def forget_silent(self, seconds: float) -> list[str]:
        """Remove workers that have said nothing for this long."""
        found = self.unit.execute(
            "DELETE FROM workers WHERE seen_at < now() - :seconds * interval '1 second' RETURNING id",
            {"seconds": seconds},
        )
        return [row[0] for row in found]

    # --- backends --------------------------------------------------------------------------------------------------

    def problem(self, backend: str, problem: str, retry_seconds: float) -> None:
        """The backend cannot be used now; nobody need try before the given time."""
        self.unit.execute(
            """
            INSERT INTO backends (name, problem, problem_since, retry_at)
            VALUES (:name, :problem, now(), now() + :retry * interval '1 second')
            ON CONFLICT (name) DO UPDATE SET problem = excluded.problem, retry_at = excluded.retry_at,
              problem_since = COALESCE(backends.problem_since, excluded.problem_since)
            """,
            {"name": backend, "problem": problem[:2000], "retry": retry_seconds},
        )

    def well(self, backend: str, problem: str | None = None) -> None:
        """The backend answered, and not only to another question than the one it has just failed to answer.

        `problem` is what it answered last time to this very question: that is over.
        """
        self.unit.execute(
            "UPDATE backends SET problem = NULL, problem_since = NULL, retry_at = NULL"
            " WHERE name = :name AND problem IS NOT NULL AND (retry_at <= now() OR problem = left(:problem, 2000))",
            {"name": backend, "problem": problem},
        )

    def acquire_poll_lease(self, backend: str, seconds: float) -> bool:
        """Become the one that asks this backend for all its jobs; False while another does."""
        found = self.unit.execute(
            """
            INSERT INTO backends (name, following_until) VALUES (:name, now() + :seconds * interval '1 second')
            ON CONFLICT (name) DO UPDATE SET following_until = excluded.following_until
            WHERE backends.following_until IS NULL OR backends.following_until < now()
            """,
            {"name": backend, "seconds": seconds},
        )
        return found.rowcount == 1

    def extend_poll_lease(self, backend: str, seconds: float) -> None:
        self.unit.execute(
            "UPDATE backends SET following_until = now() + :seconds * interval '1 second' WHERE name = :name",
            {"name": backend, "seconds": seconds},
        )

    def exclude_unpolled_time(self, backend: str, longest: float) -> None:
        """Of the time since it last answered, no more than this counts as silence about its jobs."""
        more = self.unit.execute(
            "SELECT extract(epoch FROM now() - answered_at)::float8 - :longest FROM backends WHERE name = :name",
            {"name": backend, "longest": longest},
        ).scalar()
        if more is not None and more <= 0:
            return
        self.unit.execute(
            f"""
            UPDATE step_runs s SET unknown_since = greatest(s.unknown_since,
              least(now(), s.unknown_since + (now() - l.asked) - :longest * interval '1 second'))
            FROM (
              SELECT s.id, greatest(s.unknown_since, b.answered_at) AS asked
              FROM step_runs s JOIN backends b ON b.name = s.backend
              WHERE s.backend = :name AND s.status IN ({quoted(LIVE)}) AND s.unknown_since IS NOT NULL
              ORDER BY s.id FOR NO KEY UPDATE OF s
            ) l WHERE s.id = l.id
            """,
            {"name": backend, "longest": longest},
        )

    def followed(self, backend: str, *, answers: bool) -> None:
        """All its jobs have been asked for, as far as it answers."""
        self.unit.execute(
            "UPDATE backends SET followed_at = now(), following_until = NULL,"
            " answered_at = CASE WHEN :answers THEN now() ELSE answered_at END WHERE name = :name",
            {"name": backend, "answers": answers},
        )
        if answers:
            self.well(backend)

    def waiting(self) -> list[Waiting]:
        """Per backend, how much there is to do; the counts stop at 10,000."""
        found = self.unit.execute(_WAITING)
        return [Waiting(*row) for row in found]

    def ready(self, backend: str, limit: int) -> list[UUID]:
        """Step runs that could be claimed now, the most urgent first."""
        found = self.unit.execute(
            f"SELECT id FROM step_runs WHERE backend = :backend AND {LAUNCHABLE}"
            " ORDER BY priority DESC, id LIMIT :limit",
            {"backend": backend, "limit": limit},
        )
        return [row[0] for row in found]


_WAITING = f"""
WITH names AS (
  SELECT DISTINCT backend AS name FROM step_runs WHERE status = 'PENDING' AND unmet = 0 AND NOT held
  UNION SELECT DISTINCT backend FROM step_runs WHERE status IN ({quoted(LIVE)})
  UNION SELECT DISTINCT backend FROM step_runs WHERE status IN ('STAGING_DATA', 'COLLECTING_RESULTS')
  UNION SELECT DISTINCT backend FROM step_runs
    WHERE cancel_requested_at IS NOT NULL AND status IN ({quoted(CANCELLABLE)})
)
SELECT n.name,
  (SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE backend = n.name AND {LAUNCHABLE} LIMIT 10000) x),
  (SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE backend = n.name AND status IN ({quoted(LIVE)}) LIMIT 10000) x),
  (SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE backend = n.name AND status = 'COLLECTING_RESULTS'
     AND (lease_until IS NULL OR lease_until < now()) LIMIT 10000) x),
  (SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE backend = n.name AND cancel_requested_at IS NOT NULL
     AND status IN ({quoted(CANCELLABLE)}) AND (lease_until IS NULL OR lease_until < now()) LIMIT 10000) x),
  extract(epoch FROM now() - b.followed_at)::float8,
  greatest(extract(epoch FROM b.retry_at - now()), 0)::float8
FROM names n LEFT JOIN backends b ON b.name = n.name
"""
