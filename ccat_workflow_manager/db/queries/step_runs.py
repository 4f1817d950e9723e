"""Step runs, their attempts and their events as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from ccat_workflow_manager.db.queries import Row, like, one, rows, times
from ccat_workflow_manager.db.queries.waits import WAITING_FOR, waits_of_step_run, waits_of_step_runs
from ccat_workflow_manager.db.session import UnitOfWork


class Attempt(NamedTuple):
    """Where an attempt ran. `number` is 0 if the step run has no such attempt."""

    pipeline: str
    run_id: UUID
    step: str
    key: str
    number: int
    backend: str
    job_id: str | None


def step_run_columns(waiting_for: str) -> str:
    """The columns of `step_runs s` that the API shows, with an expression for the reason of the wait."""
    return f"""
s.id, s.run_id, s.step, s.key, s.status, s.reason, s.reason_text, {waiting_for} AS waiting_for, s.backend, s.attempt,
s.max_attempts, s.replay_of,
s.reuse AND s.status = 'COMPLETED' AND s.job_id IS NULL AND s.reason IS NULL AS reused, s.job_id, s.exit_code,
s.wall_time_seconds, s.cpu_hours, s.peak_memory_gb,
COALESCE(s.caveats, '[]') AS caveats,
{times("s", "cancel_requested_at", "created_at", "submitted_at", "started_at", "finished_at")}
"""


STEP_RUN = step_run_columns(WAITING_FOR)

_DETAIL = f"""
SELECT row_to_json(x)::text FROM (
  SELECT {STEP_RUN}, r.pipeline, r.pipeline_version, r.project, s.item, s.resources, s.priority
  FROM step_runs s JOIN runs r ON r.id = s.run_id WHERE s.id = :id
) x
"""

_ATTEMPTS = f"""
SELECT x.number, row_to_json(x)::text FROM (
  SELECT a.step_run_id, a.number, a.backend, a.job_name, a.job_id, a.job_state, a.worker, a.node, a.resources,
    a.exit_code, a.signal, a.wall_time_seconds, a.cpu_hours, a.cpu_hours_allocated, a.peak_memory_gb, a.reason,
    a.reason_text, a.warnings,
    {times("a", "claimed_at", "submitted_at", "started_at", "finished_at")}
  FROM attempts a WHERE a.step_run_id = :id AND a.number > :after ORDER BY a.number LIMIT :limit
) x
"""

_ATTEMPT = """
SELECT r.pipeline, s.run_id, s.step, s.key, COALESCE(a.number, 0) AS number, s.backend, a.job_id
FROM step_runs s JOIN runs r ON r.id = s.run_id
LEFT JOIN attempts a ON a.step_run_id = s.id AND a.number = COALESCE(:attempt, s.attempt)
WHERE s.id = :id
"""

_EVENTS = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT e.id, e.step_run_id, e.run_id, e.project, {times("e", "at")}, e.event, e.from_status, e.to_status, e.attempt,
    e.actor, e.reason, e.text
  FROM events e WHERE e.step_run_id = :id AND e.id > :after ORDER BY e.id LIMIT :limit
) x
"""

_IDS_OF_RUN = """
SELECT x.id FROM (
  SELECT s.id FROM step_runs s WHERE s.run_id = :run_id AND (CAST(:after AS uuid) IS NULL OR s.id > :after)
    AND (CAST(:step AS text) IS NULL OR s.step = :step) AND (CAST(:key AS text) IS NULL OR s.key LIKE :key)
    AND (CAST(:statuses AS text[]) IS NULL OR s.status = ANY(:statuses))
  OFFSET 0
) x ORDER BY x.id LIMIT :limit
"""

_MANY = f"""
SELECT x.id, row_to_json(x)::text FROM (SELECT {STEP_RUN} FROM step_runs s WHERE s.id = ANY(:ids)) x ORDER BY x.id
"""

_OF_STEP = """
SELECT s.id FROM run_steps t JOIN step_runs s ON s.run_id = t.run_id AND s.position = t.position
WHERE t.run_id = :id AND t.name = :step AND (CAST(:key AS text) IS NULL OR s.key = :key) ORDER BY s.id
"""


def step_run_detail(unit: UnitOfWork, step_run_id: UUID) -> str | None:
    """A step run with its item and its resources."""
    return one(unit, _DETAIL, {"id": step_run_id, "waits": waits_of_step_run(unit, step_run_id)})


def run_step_runs_page(
    unit: UnitOfWork,
    run_id: UUID,
    after: UUID | None,
    limit: int,
    *,
    step: str | None = None,
    key: str | None = None,
    statuses: Sequence[str] = (),
) -> list[Row]:
    """Step runs of a run in the order of its pipeline. `key` may hold `*` and `?`."""
    wanted = {"step": step, "key": None if key is None else like(key), "statuses": list(statuses) or None}
    found = unit.execute(_IDS_OF_RUN, {"run_id": run_id, "after": after, "limit": limit, **wanted})
    ids = [row[0] for row in found]
    return rows(unit, _MANY, {"ids": ids, "waits": waits_of_step_runs(unit, ids)}) if ids else []


def step_run_exists(unit: UnitOfWork, step_run_id: UUID) -> bool:
    return unit.execute("SELECT 1 FROM step_runs WHERE id = :id", {"id": step_run_id}).first() is not None


def step_run_state(unit: UnitOfWork, step_run_id: UUID) -> tuple[str, int] | None:
    """The status and the newest attempt of a step run."""
    found = unit.execute("SELECT status, attempt FROM step_runs WHERE id = :id", {"id": step_run_id}).first()
    return None if found is None else (found[0], found[1])


def runs_of_step_runs(unit: UnitOfWork, ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """The run of each of these step runs, as far as they exist."""
    found = unit.execute("SELECT id, run_id FROM step_runs WHERE id = ANY(:ids)", {"ids": list(ids)})
    return {row[0]: row[1] for row in found}


def step_runs_of(unit: UnitOfWork, run_id: UUID, step: str, key: str | None) -> list[UUID]:
    """The step runs of a step of a run, or the one with this key."""
    found = unit.execute(_OF_STEP, {"id": run_id, "step": step, "key": key})
    return [row[0] for row in found]


def find_attempt(unit: UnitOfWork, step_run_id: UUID, attempt: int | None) -> Attempt | None:
    """An attempt of a step run, by default the last one. None: the step run does not exist."""
    return unit.row(Attempt, _ATTEMPT, {"id": step_run_id, "attempt": attempt})


def attempts_page(unit: UnitOfWork, step_run_id: UUID, after: int, limit: int) -> list[Row]:
    """The attempts, oldest first."""
    return rows(unit, _ATTEMPTS, {"id": step_run_id, "after": after, "limit": limit})


def events_page(unit: UnitOfWork, step_run_id: UUID, after: int, limit: int) -> list[Row]:
    """The events, oldest first."""
    return rows(unit, _EVENTS, {"id": step_run_id, "after": after, "limit": limit})
