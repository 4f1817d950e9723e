"""Questions of a manager to a worker, which sees files or a scheduler that the manager does not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import ServiceUnavailable

_ANSWER_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Questions:
    """Asks the workers of a backend."""

    database: Database
    doorbell: Doorbell

    def ask(self, backend: str, question: Mapping[str, Any]) -> Any:
        """The answer of one worker. Raises ServiceUnavailable, at once if no worker serves the backend."""
        with self.database.read() as unit:
            served = WorkerStore(unit).served_backends()
        if backend not in served:
            raise ServiceUnavailable(f"no worker serves {backend} now, and this host cannot look itself")
        return self.doorbell.ask(backend, question, _ANSWER_SECONDS)
