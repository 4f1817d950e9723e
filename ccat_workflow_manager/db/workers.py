"""The living workers, one row each."""

from __future__ import annotations

from collections.abc import Sequence

from ccat_workflow_manager.db.session import UnitOfWork

SILENT_SECONDS = 90
"""A worker without a sign of life for so long is taken as gone."""

DRAINED = "EXISTS (SELECT 1 FROM workers w WHERE w.id = :worker AND w.drained IS NOT NULL)"
"""The worker `:worker` takes no new work."""

_DRAIN = """
UPDATE workers SET backends = '{}', drained = jsonb_build_object('backends', to_jsonb(backends), 'by',
  CAST(:by AS text), 'why', CAST(:why AS text), 'at', now())
WHERE id = :id AND drained IS NULL
"""
_RESUME = """
UPDATE workers SET backends = ARRAY(SELECT jsonb_array_elements_text(drained -> 'backends')), drained = NULL
WHERE id = :id AND drained IS NOT NULL
"""


class WorkerStore:
    """Reads and writes workers inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def register(self, worker: str, host: str, pid: int, backends: Sequence[str]) -> None:
        self.unit.execute(
            "INSERT INTO workers (id, host, pid, backends) VALUES (:id, :host, :pid, :backends)"
            " ON CONFLICT (id) DO UPDATE SET seen_at = now(), backends = excluded.backends",
            {"id": worker, "host": host, "pid": pid, "backends": list(backends)},
        )

    def heartbeat(self, worker: str, *, completed: int = 0, ended_by_minute: Sequence[int] = ()) -> bool | None:
        """Record a sign of life. Returns whether the worker is drained.

        None: its row was removed, and the worker has to register again.
        """
        found = self.unit.execute(
            """
            UPDATE workers SET seen_at = now(), completed = completed + :completed, ended_by_minute = :ended_by_minute,
              last_completed_at = CASE WHEN :completed > 0 THEN now() ELSE last_completed_at END
            WHERE id = :id RETURNING drained IS NOT NULL
            """,
            {"id": worker, "completed": completed, "ended_by_minute": list(ended_by_minute)},
        ).first()
        return None if found is None else bool(found[0])

    def is_drained(self, worker: str) -> bool:
        return bool(self.unit.execute(f"SELECT {DRAINED}", {"worker": worker}).scalar())

    def drain(self, worker: str, by: str, why: str | None) -> bool:
        """Have a worker take no new work. Returns False if there is none with this id that does."""
        found = self.unit.execute(_DRAIN, {"id": worker, "by": by, "why": why})
        return found.rowcount == 1

    def resume(self, worker: str) -> bool:
        """Have a drained worker work again. Returns False if there is none with this id."""
        return self.unit.execute(_RESUME, {"id": worker}).rowcount == 1

    def remove(self, worker: str) -> None:
        self.unit.execute("DELETE FROM workers WHERE id = :id", {"id": worker})

    def remove_silent(self, seconds: float) -> list[str]:
        """Remove workers without a heartbeat for this long. Returns their ids."""
        found = self.unit.execute(
            "DELETE FROM workers WHERE seen_at < now() - :seconds * interval '1 second' RETURNING id",
            {"seconds": seconds},
        )
        return [row[0] for row in found]

    def served_backends(self) -> list[str]:
        """The backends that living workers serve."""
        return [row[0] for row in self.unit.execute("SELECT DISTINCT unnest(backends) FROM workers ORDER BY 1")]
