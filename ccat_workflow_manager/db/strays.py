"""Which of the jobs at a backend belong to an attempt that is over, and what was done about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork, json_list

AttemptKey = tuple[UUID, int]
"""A step run and the number of one of its attempts: what the name of a job says."""

_TAKE = """
INSERT INTO backends (name, reaped_at) VALUES (:name, now())
ON CONFLICT (name) DO UPDATE SET reaped_at = excluded.reaped_at
WHERE backends.reaped_at IS NULL OR backends.reaped_at <= now() - :seconds * interval '1 second'
"""

# A step run that was retried and not claimed since still bears the number of the attempt that is over. When that was is
# told by its last event: the times of jobs are those of other clocks.
_OVER = """
SELECT a.step_run_id, a.number,
  CASE WHEN s.finished_at IS NOT NULL OR s.attempt > a.number OR (s.status = 'PENDING' AND s.claims = 0)
  THEN extract(epoch FROM now() - COALESCE(
    (SELECT max(e.at) FROM events e WHERE e.step_run_id = a.step_run_id AND e.attempt = a.number), a.finished_at
  ))::float8 END
FROM json_to_recordset(CAST(:named AS json)) AS n(id uuid, number integer)
JOIN attempts a ON a.step_run_id = n.id AND a.number = n.number AND a.backend = :backend
JOIN step_runs s ON s.id = a.step_run_id
"""

_WARN = """
UPDATE attempts a SET warnings = COALESCE(a.warnings, '[]') || to_jsonb(n.text)
FROM json_to_recordset(CAST(:stopped AS json)) AS n(id uuid, number integer, text text)
WHERE a.step_run_id = n.id AND a.number = n.number AND NOT COALESCE(a.warnings, '[]') @> to_jsonb(n.text)
"""

_NOTE = """
UPDATE backends SET unknown_jobs = :unknown, stray_jobs = :strays, strays_stopped = strays_stopped + :stopped
WHERE name = :name
"""


@dataclass(frozen=True, slots=True)
class Stray:
    """A job that nobody waits for any more."""

    job_id: str
    attempt: AttemptKey
    over_seconds: float


class StrayStore:
    """Reads and writes inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def served(self) -> list[str]:
        """The backends that living workers serve."""
        return [row[0] for row in self.unit.execute("SELECT DISTINCT unnest(backends) FROM workers ORDER BY 1")]

    def take(self, backend: str, seconds: float) -> bool:
        """Become the one that looks through the jobs of this backend; False if another has done so lately."""
        return self.unit.execute(_TAKE, {"name": backend, "seconds": seconds}).rowcount == 1

    def over(self, backend: str, named: Iterable[AttemptKey]) -> dict[AttemptKey, float | None]:
        """For how many seconds each of these attempts has been over, None for one that is not.

        What is not in the answer is no attempt that was made here with this backend.
        """
        records = [{"id": str(step_run_id), "number": number} for step_run_id, number in sorted(set(named))]
        found = self.unit.execute(_OVER, {"named": json_list(records), "backend": backend})
        return {(row[0], row[1]): row[2] for row in found}

    def note(self, backend: str, *, unknown: int, strays: Sequence[Stray]) -> None:
        """What was found, and that the strays were asked to stop."""
        records = [
            {
                "id": str(stray.attempt[0]),
                "number": stray.attempt[1],
                "text": f"the job {stray.job_id} was still there after this attempt was over, and was stopped",
            }
            for stray in sorted(strays, key=lambda stray: stray.attempt)
        ]
        stopped = self.unit.execute(_WARN, {"stopped": json_list(records)}).rowcount if records else 0
        self.unit.execute(_NOTE, {"name": backend, "unknown": unknown, "strays": len(strays), "stopped": stopped})
