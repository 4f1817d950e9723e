"""Step runs as workers need them (`WorkItem`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.breakers import LAUNCHABLE
from ccat_workflow_manager.db.conditions import quoted
from ccat_workflow_manager.db.locked_rows import ClaimRow
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.models import Resources, RunFacts, WorkItem
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE, Status

_ITEMS = """
SELECT id AS step_run_id, run_id, step, position, key, item, backend, status, attempt, max_attempts, claims, token,
  job_id, resources, priority, cancel_requested_at IS NOT NULL AS cancel_requested, waiting_for,
  extract(epoch FROM now() - unknown_since)::float8 AS unknown_seconds, requeued_by_breaker,
  replay_of, reuse
FROM step_runs
"""

_RUNS = "SELECT id AS run_id, project, pipeline, spec_id, parameters, trace FROM runs WHERE id = ANY(:ids)"


def _items(unit: UnitOfWork, condition: str, parameters: dict[str, Any]) -> list[WorkItem]:
    records = unit.records(f"{_ITEMS} {condition}", parameters)
    run_ids = list({record["run_id"] for record in records})
    runs = {run.run_id: run for run in unit.rows(RunFacts, _RUNS, {"ids": run_ids})} if records else {}
    return [_item(record, runs) for record in records]


def _item(record: dict[str, Any], runs: dict[UUID, RunFacts]) -> WorkItem:
    record["run"] = runs[record.pop("run_id")]
    record["status"] = Status(record["status"])
    record["resources"] = Resources(**record["resources"])
    return WorkItem(**record)


def claimed_item(row: ClaimRow, run: RunFacts) -> WorkItem:
    """A step run that this transaction has locked and claimed."""
    return WorkItem(
        step_run_id=row.id,
        run=run,
        step=row.step,
        position=row.position,
        key=row.key,
        item=row.item,
        backend=row.backend,
        status=row.status,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        claims=row.claims,
        token=row.token,
        job_id=row.job_id,
        resources=Resources(**row.resources),
        priority=row.priority,
        cancel_requested=False,
        waiting_for=None,
        unknown_seconds=None,
        replay_of=row.replay_of,
        reuse=row.reuse,
        requeued_by_breaker=row.requeued_by_breaker,
    )


def load_items(unit: UnitOfWork, step_run_ids: Sequence[UUID]) -> list[WorkItem]:
    """These step runs, the most urgent first."""
    if not step_run_ids:
        return []
    return _items(unit, "WHERE id = ANY(:ids) ORDER BY priority DESC, id", {"ids": list(step_run_ids)})


def live_items(unit: UnitOfWork, backend: str, after: UUID | None, limit: int) -> list[WorkItem]:
    """A page of the step runs with a job at this backend, in the order of their ids."""
    return _items(
        unit,
        f"WHERE backend = :backend AND status IN ({quoted(LIVE)}) AND (CAST(:after AS uuid) IS NULL OR id > :after)"
        " ORDER BY id LIMIT :limit",
        {"backend": backend, "after": after, "limit": limit},
    )


def live_items_by_job(unit: UnitOfWork, backend: str, job_ids: Sequence[str]) -> list[WorkItem]:
    """The step runs with these jobs at this backend."""
    return _items(
        unit,
        f"WHERE status IN ({quoted(LIVE)}) AND id IN"
        " (SELECT step_run_id FROM attempts WHERE backend = :backend AND job_id = ANY(:jobs)) ORDER BY id",
        {"backend": backend, "jobs": list(job_ids)},
    )


def cancel_items(unit: UnitOfWork, backend: str, after: UUID | None, limit: int) -> list[WorkItem]:
    """A page of the step runs to cancel that no worker holds a lease of, in the order of their ids."""
    return _items(
        unit,
        f"WHERE backend = :backend AND cancel_requested_at IS NOT NULL AND status IN ({quoted(CANCELLABLE)})"
        " AND (lease_until IS NULL OR lease_until < now()) AND (CAST(:after AS uuid) IS NULL OR id > :after)"
        " ORDER BY id LIMIT :limit",
        {"backend": backend, "after": after, "limit": limit},
    )


def launchable(unit: UnitOfWork, backend: str, most: int) -> int:
    """How many step runs a worker could claim now, counted up to `most`: they say how many messages are needed."""
    count: int = unit.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE backend = :backend AND {LAUNCHABLE} LIMIT :most) x",
        {"backend": backend, "most": most},
    ).scalar_one()
    return count
