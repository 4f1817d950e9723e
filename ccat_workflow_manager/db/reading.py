"""Step runs as workers need them, and the few questions that the loops of the manager ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.schema import quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.statements import STUCK_RUNS
from ccat_workflow_manager.lifecycle.models import Resources, RunFacts, WorkItem
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE, Status

_ITEM = """
SELECT id, run_id, step, position, key, item, backend, status, attempt, max_attempts, claims, token, job_id, resources,
  priority, cancel_requested_at IS NOT NULL, waiting_for, extract(epoch FROM now() - unknown_since)::float8,
  withdrawn
FROM step_runs
"""

_FACTS = "SELECT id, pipeline, spec_id, parameters FROM runs WHERE id = ANY(:ids)"


def _items(unit: UnitOfWork, where: str, parameters: dict[str, Any]) -> list[WorkItem]:
    rows = unit.execute(f"{_ITEM} {where}", parameters).all()
    run_ids = list({row[1] for row in rows})
    shared = unit.execute(_FACTS, {"ids": run_ids}).all() if rows else []
    facts = {r[0]: RunFacts(r[0], r[1], r[2], r[3]) for r in shared}
    return [
        WorkItem(
            r[0], facts[r[1]], r[2], r[3], r[4], r[5], r[6], Status(r[7]), r[8], r[9], r[10], r[11], r[12],
            Resources(**r[13]), r[14], r[15], r[16], r[17], r[18],
        )
        for r in rows
    ]  # fmt: skip


def load_items(unit: UnitOfWork, step_run_ids: Sequence[UUID]) -> list[WorkItem]:
    """These step runs, the most urgent first."""
    return _items(unit, "WHERE id = ANY(:ids) ORDER BY priority DESC, id", {"ids": list(step_run_ids)})


def live_items(unit: UnitOfWork, backend: str, after: UUID | None, limit: int) -> list[WorkItem]:
    """Step runs whose jobs are at this backend, in the order of their ids."""
    return _items(
        unit,
        f"WHERE backend = :backend AND status IN ({quoted(LIVE)}) AND (CAST(:after AS uuid) IS NULL OR id > :after)"
        " ORDER BY id LIMIT :limit",
        {"backend": backend, "after": after, "limit": limit},
    )


def live_items_by_job(unit: UnitOfWork, backend: str, job_ids: Sequence[str]) -> list[WorkItem]:
    """Step runs that a backend's notice is about."""
    return _items(
        unit,
        f"WHERE status IN ({quoted(LIVE)}) AND id IN"
        " (SELECT step_run_id FROM attempts WHERE backend = :backend AND job_id = ANY(:jobs)) ORDER BY id",
        {"backend": backend, "jobs": list(job_ids)},
    )


def cancel_items(unit: UnitOfWork, backend: str, after: UUID | None, limit: int) -> list[WorkItem]:
    """Step runs that somebody wants cancelled and that are not in another worker's hands, in the order of their ids."""
    return _items(
        unit,
        f"WHERE backend = :backend AND cancel_requested_at IS NOT NULL AND status IN ({quoted(CANCELLABLE)})"
        " AND (lease_until IS NULL OR lease_until < now()) AND (CAST(:after AS uuid) IS NULL OR id > :after)"
        " ORDER BY id LIMIT :limit",
        {"backend": backend, "after": after, "limit": limit},
    )


def stuck_runs(unit: UnitOfWork, limit: int) -> list[UUID]:
    """Runs that wait for nothing but what will not happen."""
    return [row[0] for row in unit.execute(STUCK_RUNS, {"limit": limit})]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a worker learns when it renews its leases."""

    kept: frozenset[UUID]
    cancel_requested: frozenset[UUID]


class LeaseStore:
    """Who holds what. A lease never changes a status; its end lets the sweep do so."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def take_for_collection(self, backend: str, worker: str, limit: int, seconds: float) -> list[WorkItem]:
        """Hold up to `limit` step runs that wait for their results to be collected."""
        taken = self.unit.execute(
            """
            UPDATE step_runs s SET lease_owner = :worker, lease_until = now() + :seconds * interval '1 second',
              token = s.token + 1
            FROM (
              SELECT id FROM step_runs
              WHERE status = 'COLLECTING_RESULTS' AND backend = :backend
                AND (lease_until IS NULL OR lease_until < now())
              ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
            ) c WHERE s.id = c.id RETURNING s.id
            """,
            {"backend": backend, "worker": worker, "limit": limit, "seconds": seconds},
        )
        ids = [row[0] for row in taken]
        return load_items(self.unit, ids) if ids else []

    def renew(self, held: dict[UUID, int], worker: str, seconds: float) -> Renewal:
        """Keep these for longer, if they are still ours under the tokens that we know."""
        rows = self.unit.execute(
            """
            UPDATE step_runs s SET lease_until = now() + :seconds * interval '1 second'
            FROM (
              SELECT s.id FROM step_runs s
              JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS bigint[])) AS h(id, token)
                ON h.id = s.id AND h.token = s.token
              WHERE s.lease_owner = :worker ORDER BY s.id FOR NO KEY UPDATE OF s
            ) h WHERE s.id = h.id
            RETURNING s.id, s.cancel_requested_at IS NOT NULL
            """,
            {"ids": list(held), "tokens": list(held.values()), "worker": worker, "seconds": seconds},
        ).all()
        return Renewal(frozenset(row[0] for row in rows), frozenset(row[0] for row in rows if row[1]))

    def expired_staging(self, limit: int) -> list[tuple[UUID, int, str]]:
        """Id, token and former holder of what was claimed and then abandoned; locked, so that nobody renews it now."""
        found = self.unit.execute(
            "SELECT id, token, lease_owner FROM step_runs"
            " WHERE status = 'STAGING_DATA' AND lease_until < now() ORDER BY lease_until LIMIT :limit"
            " FOR NO KEY UPDATE SKIP LOCKED",
            {"limit": limit},
        )
        return [(row[0], row[1], row[2]) for row in found]
