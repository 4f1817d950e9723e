"""Time in the cluster: one thread for all controllers and kubelets, and the times that objects carry."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from itertools import count
from typing import TypeAlias

Action: TypeAlias = Callable[[], None]


class Clockwork:
    """Runs actions one after another, at once or later. A second of the cluster lasts 1/`scale` real seconds."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self._changed = threading.Condition()
        self._now: deque[tuple[Hashable, Action]] = deque()
        self._pending: set[Hashable] = set()
        self._later: list[tuple[float, int, Action]] = []
        self._numbers = count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="stand-in controllers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def soon(self, key: Hashable, action: Action) -> None:
        """Run the action, unless one with the same key is already waiting."""
        with self._changed:
            if key not in self._pending:
                self._pending.add(key)
                self._now.append((key, action))
                self._changed.notify()

    def run(self, action: Action) -> None:
        """Run the action, whatever else is waiting."""
        self.soon(object(), action)

    def after(self, seconds: float, action: Action) -> None:
        """Run the action in so many seconds of the cluster."""
        with self._changed:
            heapq.heappush(self._later, (self.deadline(seconds), next(self._numbers), action))
            self._changed.notify()

    def deadline(self, seconds: float) -> float:
        """Monotonic time in so many seconds of the cluster."""
        return time.monotonic() + seconds / self.scale

    def _run(self) -> None:
        while (action := self._next()) is not None:
            action()

    def _next(self) -> Action | None:
        with self._changed:
            while not self._stopping:
                # What is due goes first: a crowd of changes must not hold up a deadline.
                left = self._later[0][0] - time.monotonic() if self._later else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._later)[2]
                if self._now:
                    key, action = self._now.popleft()
                    self._pending.discard(key)
                    return action
                self._changed.wait(left)
            return None


def stamp(seconds: float | None = None) -> str:
    """A time to the second, as most of the API has it."""
    return _utc(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def fine_stamp(seconds: float | None = None) -> str:
    """A time to the microsecond, as eventTime has it."""
    return _utc(seconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _utc(seconds: float | None) -> datetime:
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
