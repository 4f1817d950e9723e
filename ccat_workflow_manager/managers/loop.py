"""A loop of the manager: one duty, done again and again, in a thread that ends when it is told to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread

from ccat_workflow_manager.errors import WorkflowError

log = logging.getLogger(__name__)


class Loop:
    """Calls `tick` every `seconds`. A tick that fails is logged, and the next one comes as if nothing had been."""

    def __init__(self, name: str, seconds: float, tick: Callable[[], None]) -> None:
        self.name = name
        self._seconds = seconds
        self._tick = tick
        self._stop = Event()
        self._thread = Thread(target=self._run, name=f"loop {name}", daemon=True)
        self._trouble = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the loop to end after the present tick."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.tick_once()
            self._stop.wait(self._seconds)

    def tick_once(self) -> None:
        """The manager's tick: one of the three places where any exception is caught."""
        try:
            self._tick()
        except WorkflowError as error:
            # The same trouble every second is one line in the log, and one more when it is over.
            if error.message != self._trouble:
                log.warning("%s: %s", self.name, error.message)
            self._trouble = error.message
        except Exception:
            log.exception("%s failed", self.name)
        else:
            if self._trouble:
                log.info("%s: works again", self.name)
            self._trouble = ""
