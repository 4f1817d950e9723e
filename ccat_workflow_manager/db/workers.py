"""The living workers, one row each."""

from __future__ import annotations

from collections.abc import Sequence

from ccat_workflow_manager.db.session import UnitOfWork


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

    def heartbeat(self, worker: str, *, completed: int = 0) -> bool:
        """Record a sign of life. Returns False if the worker has to register again because its row was removed."""
        found = self.unit.execute(
            """
            UPDATE workers SET seen_at = now(), completed = completed + :completed,
              last_completed_at = CASE WHEN :completed > 0 THEN now() ELSE last_completed_at END
            WHERE id = :id
            """,
            {"id": worker, "completed": completed},
        )
        return found.rowcount == 1

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
