"""Which files and rows of finished runs are to be removed, and how far that is.

A deletion is recorded before anything is removed, so it is repeated until it is done. A worker of each backend that the
run has used removes the files that it sees. The rows of the run are deleted last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ccat_workflow_manager.db.conditions import quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.models import What
from ccat_workflow_manager.lifecycle.states import FINISHED, RETRYABLE

_ROWS_AT_ONCE = 1000

_LOCK_RETRYABLE = f"""
SELECT count(*) FROM (
  SELECT 1 FROM step_runs WHERE run_id = ANY(:run_ids) AND status IN ({quoted(RETRYABLE)})
  ORDER BY id FOR NO KEY UPDATE
) AS locked
"""

_USERS = """
SELECT DISTINCT p.run_id, q.run_id AS other FROM products p JOIN product_parents d ON d.parent_id = p.id
JOIN products q ON q.id = d.product_id WHERE p.run_id = ANY(:run_ids) AND q.run_id <> p.run_id
UNION
SELECT x.run_id, s.run_id FROM step_run_inputs i JOIN step_runs s ON s.id = i.step_run_id
CROSS JOIN LATERAL unnest(i.source_runs) AS x(run_id)
WHERE i.source_runs && CAST(:run_ids AS uuid[]) AND x.run_id = ANY(:run_ids) AND s.run_id <> x.run_id
"""

_OPEN = "SELECT id FROM runs WHERE id = ANY(:run_ids) AND finished_at IS NULL"

_REQUEST = """
INSERT INTO deletions (run_id, what, actor, run_finished_at, backends)
SELECT r.id, :what, :actor, r.finished_at,
  ARRAY(SELECT DISTINCT s.backend FROM step_runs s WHERE s.run_id = r.id AND s.attempt > 0)
FROM runs r WHERE r.id = ANY(:run_ids) AND r.finished_at IS NOT NULL
ON CONFLICT (run_id, what) DO UPDATE
  SET done_at = NULL, run_finished_at = excluded.run_finished_at, backends = excluded.backends, actor = excluded.actor
  WHERE deletions.done_at IS NOT NULL
RETURNING run_id
"""

_SHOW = "UPDATE runs SET status_reason = :text WHERE id = ANY(:run_ids)"

_SIZES = """
SELECT r.id, r.pipeline, (SELECT count(*) FROM step_runs s WHERE s.run_id = r.id) AS step_runs,
  count(p.id) AS products, coalesce(sum(p.size), 0)::bigint AS bytes
FROM runs r LEFT JOIN products p ON p.run_id = r.id WHERE r.id = ANY(:run_ids) GROUP BY r.id ORDER BY r.id
"""

_DELETING = "SELECT run_id FROM deletions WHERE run_id = ANY(:run_ids) AND what = 'run'"

_TAKE = """
WITH due AS (
  SELECT run_id, what FROM deletions
  WHERE done_at IS NULL AND :backend = ANY(backends) AND (lease_until IS NULL OR lease_until < now())
  ORDER BY requested_at, run_id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE deletions d SET lease_until = now() + make_interval(secs => :seconds) FROM due, runs r
WHERE d.run_id = due.run_id AND d.what = due.what AND r.id = d.run_id
RETURNING d.run_id, d.what, r.pipeline
"""

_REMOVED = """
UPDATE deletions SET backends = array_remove(backends, :backend), lease_until = NULL, problem = NULL,
  done_at = CASE WHEN what <> 'run' AND array_remove(backends, :backend) = '{}' THEN now() END
WHERE run_id = :run_id AND what = :what
"""

_POSTPONE = """
UPDATE deletions SET lease_until = now() + make_interval(secs => :seconds), problem = :problem
WHERE run_id = :run_id AND what = :what
"""

_ATTEMPTS = f"""
SELECT s.step, s.key, a.number, s.status = 'COMPLETED' AND s.attempt = a.number AS completed
FROM step_runs s JOIN attempts a ON a.step_run_id = s.id
WHERE s.run_id = :run_id AND s.backend = :backend AND (s.status IN ({quoted(FINISHED)}) OR a.number < s.attempt)
ORDER BY s.id, a.number
"""

_WAITING = """
SELECT DISTINCT unnest(backends) FROM (
  SELECT backends FROM deletions
  WHERE done_at IS NULL AND (lease_until IS NULL OR lease_until < now()) ORDER BY requested_at LIMIT 1000
) AS d
"""

_WITHOUT_FILES = """
UPDATE deletions SET done_at = now() WHERE done_at IS NULL AND what <> 'run' AND backends = '{}'
"""

_READY = "SELECT run_id FROM deletions WHERE done_at IS NULL AND what = 'run' AND backends = '{}' LIMIT :limit"

_DELETE_STEP_RUNS = """
DELETE FROM step_runs WHERE id IN (SELECT id FROM step_runs WHERE run_id = :run_id LIMIT :limit)
"""

_RECORD = """
INSERT INTO audit (actor, identity, address, action, object, project, before, request_id)
SELECT d.actor, d.actor, '', 'run.deleted', 'runs/' || r.id, r.project,
  jsonb_build_object('pipeline', r.pipeline, 'status', r.status, 'created_by', r.created_by,
    'created_at', r.created_at, 'finished_at', r.finished_at, 'deletion_requested_at', d.requested_at), ''
FROM runs r JOIN deletions d ON d.run_id = r.id AND d.what = 'run' WHERE r.id = :run_id
"""

_OLD = """
SELECT r.id, r.created_at,
  r.finished_at < now() - make_interval(days => :days)
  AND NOT EXISTS (SELECT 1 FROM deletions d WHERE d.run_id = r.id
    AND (d.what = :what AND d.run_finished_at = r.finished_at OR d.what = 'run')) AS due
FROM runs r
WHERE r.created_at < now() - make_interval(days => :days)
  AND (CAST(:after_at AS timestamptz) IS NULL OR (r.created_at, r.id) > (:after_at, CAST(:after AS uuid)))
ORDER BY r.created_at, r.id LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class RunSize:
    """What a deleted run would leave free."""

    id: UUID
    pipeline: str
    step_runs: int
    products: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TakenDeletion:
    """A deletion whose files a worker removes now."""

    run_id: UUID
    what: str
    pipeline: str


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that is over. `completed`: its output is what the step run has published."""

    step: str
    key: str
    number: int
    completed: bool


@dataclass(frozen=True, slots=True)
class OldRun:
    """A run that may be old enough."""

    id: UUID
    created_at: datetime
    due: bool | None


class DeletionStore:
    """Reads and changes deletions inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit

    # --- requests ----------------------------------------------------------------------------------------------------

    def lock(self, run_ids: Sequence[UUID]) -> None:
        """Keep these runs from being retried until this transaction ends."""
        self._unit.execute(_LOCK_RETRYABLE, {"run_ids": list(run_ids)})

    def open_runs(self, run_ids: Sequence[UUID]) -> set[UUID]:
        """Those of these runs that are not over."""
        return {row[0] for row in self._unit.execute(_OPEN, {"run_ids": list(run_ids)})}

    def users(self, run_ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
        """For each of these runs whose products are used: the other runs that use them."""
        found: dict[UUID, list[UUID]] = {}
        for run_id, other in self._unit.execute(_USERS, {"run_ids": list(run_ids)}):
            found.setdefault(run_id, []).append(other)
        return found

    def request(self, run_ids: Sequence[UUID], what: What, actor: str, text: str) -> list[UUID]:
        """Record a deletion of each run that is over. Returns those that are new. `text` is what a run then shows."""
        chosen = [
            row[0] for row in self._unit.execute(_REQUEST, {"run_ids": list(run_ids), "what": what, "actor": actor})
        ]
        if what is What.RUN and chosen:
            self._unit.execute(_SHOW, {"run_ids": chosen, "text": text})
        return chosen

    def sizes(self, run_ids: Sequence[UUID]) -> list[RunSize]:
        return self._unit.rows(RunSize, _SIZES, {"run_ids": list(run_ids)})

    def being_deleted(self, run_ids: Sequence[UUID]) -> set[UUID]:
        """Those of these runs whose rows are to be deleted."""
        return {row[0] for row in self._unit.execute(_DELETING, {"run_ids": list(run_ids)})}

    def old_runs(self, what: What, days: int, after: OldRun | None, limit: int) -> list[OldRun]:
        """Runs that were created more than `days` ago, the oldest first, from the one after `after` on."""
        values = {"what": what, "days": days, "limit": limit}
        place = {"after_at": after and after.created_at, "after": after and after.id}
        return self._unit.rows(OldRun, _OLD, values | place)

    # --- files -------------------------------------------------------------------------------------------------------

    def waiting_backends(self) -> list[str]:
        """The backends whose workers have files to remove."""
        return sorted(row[0] for row in self._unit.execute(_WAITING))

    def take(self, backend: str, seconds: float) -> TakenDeletion | None:
        """Lease the oldest deletion that has files of this backend."""
        return self._unit.row(TakenDeletion, _TAKE, {"backend": backend, "seconds": seconds})

    def ended_attempts(self, run_id: UUID, backend: str) -> list[EndedAttempt]:
        """The attempts of this run on this backend that are over: a retry makes new ones meanwhile."""
        return self._unit.rows(EndedAttempt, _ATTEMPTS, {"run_id": run_id, "backend": backend})

    def files_removed(self, taken: TakenDeletion, backend: str) -> None:
        self._unit.execute(_REMOVED, {"run_id": taken.run_id, "what": taken.what, "backend": backend})

    def postpone(self, taken: TakenDeletion, seconds: float, problem: str | None) -> None:
        """Have the rest removed later; `problem` is what stood in the way."""
        values = {"run_id": taken.run_id, "what": taken.what}
        self._unit.execute(_POSTPONE, values | {"seconds": seconds, "problem": problem})

    # --- rows --------------------------------------------------------------------------------------------------------

    def end_without_files(self) -> None:
        """End the deletions of files of runs that have none."""
        self._unit.execute(_WITHOUT_FILES)

    def ready_runs(self, limit: int) -> list[UUID]:
        """Runs whose files are removed, and whose rows are not."""
        return [row[0] for row in self._unit.execute(_READY, {"limit": limit})]

    def delete_rows(self, run_id: UUID) -> bool:
        """Delete some step runs, and with the last ones the run, for the audit. Returns whether the run is deleted."""
        done = self._unit.execute(_DELETE_STEP_RUNS, {"run_id": run_id, "limit": _ROWS_AT_ONCE})
        if done.rowcount == _ROWS_AT_ONCE:
            return False
        self._unit.execute(_RECORD, {"run_id": run_id})
        self._unit.execute("DELETE FROM runs WHERE id = :run_id", {"run_id": run_id})
        return True
