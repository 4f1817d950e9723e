"""Step runs, their attempts and their events."""

from __future__ import annotations

from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.sql import Row, one, rows, times
from ccat_workflow_manager.db.views.waits import WAITING_FOR, waits_of_step_run


def step_run_columns(waiting_for: str) -> str:
    """The columns of `step_runs s` that make up a step run, with an expression for what it waits for."""
    return f"""
s.id, s.run_id, s.step, s.key, s.status, s.reason, s.reason_text, {waiting_for} AS waiting_for, s.backend, s.attempt,
s.max_attempts, s.job_id, s.exit_code, s.wall_time_seconds, s.cpu_hours, s.peak_memory_gb,
{times("s", "cancel_requested_at", "created_at", "submitted_at", "started_at", "finished_at")}
"""


STEP_RUN = step_run_columns(WAITING_FOR)

_DETAIL = f"""
SELECT row_to_json(x)::text FROM (
  SELECT {STEP_RUN}, r.pipeline, r.pipeline_version, s.item, s.resources, s.priority
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

_EVENTS = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT e.id, e.step_run_id, e.run_id, {times("e", "at")}, e.event, e.from_status, e.to_status, e.attempt, e.actor,
    e.reason, e.text
  FROM events e WHERE e.step_run_id = :id AND e.id > :after ORDER BY e.id LIMIT :limit
) x
"""


def step_run_detail(unit: UnitOfWork, step_run_id: UUID) -> str | None:
    """A step run, with what it works on and what it asks for."""
    return one(unit, _DETAIL, {"id": step_run_id, "waits": waits_of_step_run(unit, {"id": step_run_id})})


def step_run_exists(unit: UnitOfWork, step_run_id: UUID) -> bool:
    return unit.execute("SELECT 1 FROM step_runs WHERE id = :id", {"id": step_run_id}).first() is not None


def attempts_page(unit: UnitOfWork, step_run_id: UUID, after: int, limit: int) -> list[Row]:
    """The attempts in their order."""
    return rows(unit, _ATTEMPTS, {"id": step_run_id, "after": after, "limit": limit})


def events_page(unit: UnitOfWork, step_run_id: UUID, after: int, limit: int) -> list[Row]:
    """The events in the order in which they happened."""
    return rows(unit, _EVENTS, {"id": step_run_id, "after": after, "limit": limit})
