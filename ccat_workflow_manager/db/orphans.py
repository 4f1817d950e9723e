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

# How many looks in a row have found a job says whether it stops when it is asked to.
_NOTE = """
UPDATE backends b SET unknown_jobs = :unknown, stray_jobs = :strays, strays_stopped = strays_stopped + :stopped,
  reap_problem = :problem,
  strays = COALESCE((
    SELECT jsonb_agg(jsonb_build_object('id', n.id, 'number', n.number, 'job_id', n.job_id, 'looks', 1 + COALESCE((
      SELECT max(o.looks) FROM jsonb_to_recordset(b.strays) AS o(job_id text, looks integer) WHERE o.job_id = n.job_id
    ), 0))) FROM json_to_recordset(CAST(:records AS json)) AS n(id uuid, number integer, job_id text)
  ), '[]')
WHERE name = :name
"""

_LISTED = 1000


@dataclass(frozen=True, slots=True)
class OrphanJob:
    """A job that nobody waits for any more."""

    job_id: str
    attempt: AttemptKey
    over_seconds: float


class OrphanStore:
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

    def listed(self, backend: str) -> set[str]:
        """The jobs of attempts that were over which the last look has found."""
        found = self.unit.execute(
            "SELECT o.job_id FROM backends b, jsonb_to_recordset(b.strays) AS o(job_id text) WHERE b.name = :name",
            {"name": backend},
        )
        return {row[0] for row in found}

    def note(self, backend: str, *, unknown: int, strays: Sequence[OrphanJob], problem: str | None = None) -> None:
        """What was found, and that the strays were asked to stop; with a `problem`, that they could not be."""
        done = "and was stopped" if problem is None else "and could not be stopped at once"
        records = [
            {
                "id": str(stray.attempt[0]),
                "number": stray.attempt[1],
                "job_id": stray.job_id,
                "text": f"the job {stray.job_id} was still there after this attempt was over, {done}",
            }
            for stray in sorted(strays, key=lambda stray: stray.attempt)
        ]
        warned = self.unit.execute(_WARN, {"stopped": json_list(records)}).rowcount if records else 0
        self.unit.execute(
            _NOTE,
            {
                "name": backend,
                "unknown": unknown,
                "strays": len(strays),
                "stopped": warned if problem is None else 0,
                "problem": None if problem is None else problem[:2000],
                "records": json_list(records[:_LISTED]),
            },
        )

    def note_unlisted(self, backend: str, problem: str) -> None:
        """Its jobs could not be looked through: what was found the last time is all that is known."""
        self.unit.execute(
            "UPDATE backends SET reap_problem = :problem WHERE name = :name",
            {"name": backend, "problem": problem[:2000]},
        )
