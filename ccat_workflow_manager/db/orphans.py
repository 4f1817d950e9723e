"""Orphan jobs: jobs still at a backend although their attempt is over. What a sweep found, and what it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork, json_list

AttemptKey = tuple[UUID, int]
"""A step run and the number of one of its attempts, as the name of a job has them."""

_LONGEST_LIST = 1000
_LONGEST_PROBLEM = 2000

_ACQUIRE_SWEEP_LEASE = """
INSERT INTO backends (name, reaped_at) VALUES (:name, now())
ON CONFLICT (name) DO UPDATE SET reaped_at = excluded.reaped_at
WHERE backends.reaped_at IS NULL OR backends.reaped_at <= now() - :seconds * interval '1 second'
"""

_SECONDS_OVER = """
SELECT a.step_run_id, a.number,
  CASE WHEN s.finished_at IS NOT NULL OR s.attempt > a.number OR (s.status = 'PENDING' AND s.claims = 0)
  THEN extract(epoch FROM now() - COALESCE(
    (SELECT max(e.at) FROM events e WHERE e.step_run_id = a.step_run_id AND e.attempt = a.number), a.finished_at
  ))::float8 END AS seconds
FROM json_to_recordset(CAST(:named AS json)) AS n(id uuid, number integer)
JOIN attempts a ON a.step_run_id = n.id AND a.number = n.number AND a.backend = :backend
JOIN step_runs s ON s.id = a.step_run_id
"""
"""A step run that was retried and not claimed since still has the number of the attempt that is over.

The end is that of its last event, because the times of jobs are those of other clocks.
"""

_LISTED = "SELECT o.job_id FROM backends b, jsonb_to_recordset(b.strays) AS o(job_id text) WHERE b.name = :name"

_WARN = """
UPDATE attempts a SET warnings = COALESCE(a.warnings, '[]') || to_jsonb(n.text)
FROM json_to_recordset(CAST(:stopped AS json)) AS n(id uuid, number integer, text text)
WHERE a.step_run_id = n.id AND a.number = n.number AND NOT COALESCE(a.warnings, '[]') @> to_jsonb(n.text)
"""

_RECORD_SWEEP = """
UPDATE backends b SET unknown_jobs = :unknown, stray_jobs = :orphans, strays_stopped = strays_stopped + :stopped,
  reap_problem = :problem,
  strays = COALESCE((
    SELECT jsonb_agg(jsonb_build_object('id', n.id, 'number', n.number, 'job_id', n.job_id, 'looks', 1 + COALESCE((
      SELECT max(o.looks) FROM jsonb_to_recordset(b.strays) AS o(job_id text, looks integer) WHERE o.job_id = n.job_id
    ), 0))) FROM json_to_recordset(CAST(:records AS json)) AS n(id uuid, number integer, job_id text)
  ), '[]')
WHERE name = :name
"""
"""`looks` counts the sweeps in a row that found a job: above 1, the job does not stop when it is asked to."""

_RECORD_FAILED_SWEEP = "UPDATE backends SET reap_problem = :problem WHERE name = :name"


@dataclass(frozen=True, slots=True)
class OrphanJob:
    """A job whose attempt has been over for a while."""

    job_id: str
    attempt: AttemptKey
    over_seconds: float


class OrphanStore:
    """Reads and writes the results of sweeps inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def acquire_sweep_lease(self, backend: str, seconds: float) -> bool:
        """Become the worker that sweeps this backend. Returns False if another one did within `seconds`."""
        return self.unit.execute(_ACQUIRE_SWEEP_LEASE, {"name": backend, "seconds": seconds}).rowcount == 1

    def seconds_over(self, backend: str, attempts: Iterable[AttemptKey]) -> dict[AttemptKey, float | None]:
        """For how long each of these attempts has been over. None: it is not over.

        An attempt that this database did not make with this backend is missing in the result.
        """
        records = [{"id": str(step_run_id), "number": number} for step_run_id, number in sorted(set(attempts))]
        found = self.unit.execute(_SECONDS_OVER, {"named": json_list(records), "backend": backend})
        return {(step_run_id, number): seconds for step_run_id, number, seconds in found}

    def last_orphans(self, backend: str) -> set[str]:
        """The orphan jobs that the last sweep found."""
        return {row[0] for row in self.unit.execute(_LISTED, {"name": backend})}

    def record_sweep(
        self, backend: str, *, unknown: int, orphans: Sequence[OrphanJob], problem: str | None = None
    ) -> None:
        """Record what a sweep found, also as warnings of the attempts. `problem`: why the jobs could not be stopped."""
        outcome = "and was stopped" if problem is None else "and could not be stopped at once"
        records = [
            {
                "id": str(orphan.attempt[0]),
                "number": orphan.attempt[1],
                "job_id": orphan.job_id,
                "text": f"the job {orphan.job_id} was still there after this attempt was over, {outcome}",
            }
            for orphan in sorted(orphans, key=lambda orphan: orphan.attempt)
        ]
        warned = self.unit.execute(_WARN, {"stopped": json_list(records)}).rowcount if records else 0
        self.unit.execute(
            _RECORD_SWEEP,
            {
                "name": backend,
                "unknown": unknown,
                "orphans": len(orphans),
                "stopped": warned if problem is None else 0,
                "problem": None if problem is None else problem[:_LONGEST_PROBLEM],
                "records": json_list(records[:_LONGEST_LIST]),
            },
        )

    def record_failed_sweep(self, backend: str, problem: str) -> None:
        """Record that the backend could not be searched. What the last sweep found stays."""
        self.unit.execute(_RECORD_FAILED_SWEEP, {"name": backend, "problem": problem[:_LONGEST_PROBLEM]})
