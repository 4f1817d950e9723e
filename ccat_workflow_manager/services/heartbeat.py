"""The signs of life of a worker: it is there, and has done so much. The answer tells it whether it is drained."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.workers import WorkerStore

_EVERY_SECONDS = 5.0
_MINUTES = 60


class Pace:
    """How many step runs this process has ended in each minute of the last hour. Any thread may count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = self._minute()
        self._counts: Counter[int] = Counter()
        self._lock = threading.Lock()

    def _minute(self) -> int:
        return int(self._clock() // 60)

    def add(self, number: int) -> None:
        with self._lock:
            self._counts[self._minute()] += number

    def by_minute(self) -> list[int]:
        """The counts of the minutes since it was made, at most of an hour, the present one last."""
        with self._lock:
            last = self._minute()
            first = max(self._begin, last - _MINUTES + 1)
            self._counts = Counter({minute: count for minute, count in self._counts.items() if minute >= first})
            return [self._counts[minute] for minute in range(first, last + 1)]


class Heartbeat:
    """That of one worker."""

    def __init__(self, database: Database, worker: str, backends: Sequence[str]) -> None:
        self._database = database
        self._worker = worker
        self._backends = backends
        self._completed = 0
        self._pace = Pace()
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

    def count_ended(self, step_runs: int) -> None:
        """Count step runs that this worker has ended. Any thread may call it."""
        self._pace.add(step_runs)

    def beat(self) -> None:
        """Record a sign of life, at most once in a few seconds. The main loop of a worker calls this in every turn."""
        if time.monotonic() - self._last >= _EVERY_SECONDS:
            self.report()

    def report(self) -> None:
        """Record a sign of life now."""
        self._last = time.monotonic()
        completed, self._completed = self._completed, 0
        with self._database.begin("commit.alive") as unit:
            workers = WorkerStore(unit)
            drained = workers.heartbeat(self._worker, completed=completed, ended_by_minute=self._pace.by_minute())
            if drained is None:
                workers.register(self._worker, socket.gethostname(), os.getpid(), self._backends)
                if self.is_drained:
                    workers.drain(self._worker, "the worker itself", "it was drained when its row was removed")
            else:
                self.is_drained = drained
