"""Threads that run one call each at a time and never keep the interpreter from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class Threads:
    """At most `places` threads, started when they are needed."""

    def __init__(self, places: int, name: str) -> None:
        self.places = places
        self._name = name
        self._queue: SimpleQueue[tuple[Callable[[Any], None], Any] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[Any], None], argument: Any) -> None:
        """Call in a thread. `call` raises nothing."""
        self._queue.put((call, argument))
        if len(self._threads) < self.places and not self._idle.acquire(blocking=False):
            thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Let the threads end once what was submitted is done."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self, seconds: float) -> bool:
        """Wait until all threads have ended. Returns False if some go on."""
        for thread in self._threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            call, argument = item
            del item
            call(argument)
            del call, argument
            if len(self._threads) < self.places:
                self._idle.release()
