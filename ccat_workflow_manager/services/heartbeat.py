"""The signs of life of a worker: it is there, and has done so much. The answer tells it whether it is drained."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.workers import WorkerStore

_EVERY_SECONDS = 5.0


class Heartbeat:
    """That of one worker."""

    def __init__(self, database: Database, worker: str, backends: Sequence[str]) -> None:
        self._database = database
        self._worker = worker
        self._backends = backends
        self._completed = 0
        self._last = -_EVERY_SECONDS
        self.is_drained = False
        """Whether this worker takes no new work, as of its last sign of life."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Counts one task. The next sign of life reports the count."""
        try:
            yield
        finally:
            self._completed += 1

    def beat(self) -> None:
        """Record a sign of life, at most once in a few seconds. The main loop of a worker calls this in every turn."""
        now = time.monotonic()
        if now - self._last < _EVERY_SECONDS:
            return
        self._last = now
        completed, self._completed = self._completed, 0
        with self._database.begin("commit.alive") as unit:
            workers = WorkerStore(unit)
            drained = workers.heartbeat(self._worker, completed=completed)
            if drained is None:
                workers.register(self._worker, socket.gethostname(), os.getpid(), self._backends)
                if self.is_drained:
                    workers.drain(self._worker, "the worker itself", "it was drained when its row was removed")
            else:
                self.is_drained = drained
