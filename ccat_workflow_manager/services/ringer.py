"""Rings for new runs in a thread of its own, so that no request for runs waits for Redis."""

from __future__ import annotations

from collections import Counter
from threading import Lock

from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.threads import Threads

_LAST_SECONDS = 5


class Ringer:
    """Rings once for all calls that came while it rang before.

    A message may be late or lost: the loops of the manager ring for rows that still wait.
    """

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._lock = Lock()
        self._ready = Counter[str]()
        """By backend, the step runs that it has not rung for yet."""
        self._threads = Threads(1, "ring")

    def ring(self, ready: Counter[str]) -> None:
        """Call workers to launch these step runs, soon."""
        with self._lock:
            is_first = not self._ready
            self._ready += ready
        if is_first and ready:
            self._threads.submit(Ringer._ring, self)

    def close(self) -> None:
        """Ring for the last calls. Later ones stay unrung."""
        self._threads.close()
        self._threads.join(_LAST_SECONDS)

    def _ring(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, Counter[str]()
        self._doorbell.ring_all(Bell.LAUNCH, ready)
