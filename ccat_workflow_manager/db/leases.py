"""The leases of step runs. A lease changes no status; when it expires, the sweep requeues the step run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.work_items import load_items
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.lifecycle.states import Status

_ACQUIRE_FOR_COLLECTION = f"""
UPDATE step_runs s SET lease_owner = :worker, lease_until = now() + :seconds * interval '1 second', token = s.token + 1,
  deaths = s.deaths + CASE WHEN s.lease_owner IS NULL THEN 0 ELSE 1 END
FROM (
  SELECT id FROM step_runs
  WHERE status = '{Status.COLLECTING_RESULTS}' AND backend = :backend
    AND (lease_until IS NULL OR (lease_until < now() AND deaths + 1 < :max_deaths))
  ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) c WHERE s.id = c.id RETURNING s.id
"""

_RENEW = """
UPDATE step_runs s SET lease_until = now() + :seconds * interval '1 second'
FROM (
  SELECT s.id FROM step_runs s
  JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS bigint[])) AS h(id, token) ON h.id = s.id AND h.token = s.token
  WHERE s.lease_owner = :worker ORDER BY s.id FOR NO KEY UPDATE OF s
) h WHERE s.id = h.id
RETURNING s.id, s.cancel_requested_at IS NOT NULL AS cancel_requested
"""

_RELEASE = f"""
UPDATE step_runs s SET lease_owner = NULL, lease_until = NULL
FROM (
  SELECT s.id FROM step_runs s
  JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS bigint[])) AS h(id, token) ON h.id = s.id AND h.token = s.token
  WHERE s.lease_owner = :worker AND s.status = '{Status.COLLECTING_RESULTS}' ORDER BY s.id FOR NO KEY UPDATE OF s
) h WHERE s.id = h.id
"""

_EXPIRED = f"""
lease_until < now() AND (status = '{Status.STAGING_DATA}'
  OR (status = '{Status.COLLECTING_RESULTS}' AND deaths + 1 >= :max_deaths))
"""

_ANY_EXPIRED = f"SELECT EXISTS (SELECT 1 FROM step_runs WHERE {_EXPIRED})"

_TAKE_EXPIRED = f"""
UPDATE step_runs s SET deaths = s.deaths + 1
FROM (SELECT id FROM step_runs WHERE {_EXPIRED} ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED) x
WHERE s.id = x.id RETURNING s.id AS step_run_id, s.token, s.lease_owner AS owner, s.deaths
"""


@dataclass(frozen=True, slots=True)
class Renewal:
    """Which leases a renewal kept, and for which of all step runs in it a cancel was requested."""

    kept: frozenset[UUID]
    cancel_requested: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class ExpiredLease:
    """The lease of a worker that stopped answering."""

    step_run_id: UUID
    token: int
    owner: str
    deaths: int
    """How many workers have done so with this attempt."""


class LeaseStore:
    """Acquires and renews leases inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def acquire_for_collection(
        self, backend: str, worker: str, limit: int, seconds: float, max_deaths: int
    ) -> list[WorkItem]:
        """Lease up to `limit` step runs whose results wait to be collected. Leaves those that `take_expired` takes."""
        parameters = {
            "backend": backend, "worker": worker, "limit": limit, "seconds": seconds, "max_deaths": max_deaths,
        }  # fmt: skip
        return load_items(self.unit, [row[0] for row in self.unit.execute(_ACQUIRE_FOR_COLLECTION, parameters)])

    def renew(self, tokens: Mapping[UUID, int], worker: str, seconds: float) -> Renewal:
        """Extend the leases of these step runs that the worker still holds under these tokens."""
        parameters = {"ids": list(tokens), "tokens": list(tokens.values()), "worker": worker, "seconds": seconds}
        rows = self.unit.execute(_RENEW, parameters).all()
        return Renewal(frozenset(row[0] for row in rows), frozenset(row[0] for row in rows if row[1]))

    def release(self, tokens: Mapping[UUID, int], worker: str) -> None:
        """End the leases of these step runs, whose results another worker may then collect."""
        self.unit.execute(_RELEASE, {"ids": list(tokens), "tokens": list(tokens.values()), "worker": worker})

    def any_expired(self, max_deaths: int) -> bool:
        """Whether `take_expired` would find anything."""
        return bool(self.unit.execute(_ANY_EXPIRED, {"max_deaths": max_deaths}).scalar_one())

    def take_expired(self, limit: int, max_deaths: int) -> list[ExpiredLease]:
        """Expired leases of step runs in STAGING_DATA, and of those whose results have ended `max_deaths` workers.

        Counts the deaths. The rows stay locked, so that no worker renews them now.
        """
        return self.unit.rows(ExpiredLease, _TAKE_EXPIRED, {"limit": limit, "max_deaths": max_deaths})
