"""Telling somebody which jobs have ended, from a thread of its own: a listener that is slow holds up no watch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


class Notices:
    """Gathers ids while the listener is busy."""

    def __init__(self, on_change: Callable[[Sequence[str]], None]) -> None:
        self._on_change = on_change
        self._gathered: dict[str, None] = {}
        self._rung = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="kubernetes notices", daemon=True)
        self._thread.start()

    def add(self, job_id: str) -> None:
        with self._rung:
            self._gathered[job_id] = None
            self._rung.notify()

    def stop(self) -> None:
        with self._rung:
            self._over = True
            self._rung.notify()

    def _run(self) -> None:
        while True:
            with self._rung:
                while not self._gathered and not self._over:
                    self._rung.wait()
                if self._over:
                    return
                gathered, self._gathered = list(self._gathered), {}
            self._on_change(gathered)
