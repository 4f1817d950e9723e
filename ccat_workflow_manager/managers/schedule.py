"""Runs the loops of a manager in few threads: an idle manager wakes up about once a second for all of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from ccat_workflow_manager import metrics
from ccat_workflow_manager.errors import WorkflowError

log = logging.getLogger(__name__)

_EARLY = 0.2
"""A loop may have its turn by so much of its time too early: several share one wake-up."""
_LATE_SECONDS = 2.0


class Loop:
    """Has a turn every `seconds`, which calls `tick`. It logs a tick that fails, and goes on with the next one."""

    def __init__(self, name: str, seconds: float, tick: Callable[[], None]) -> None:
        self.name = name
        self.due = time.monotonic()
        self._seconds = seconds
        self._tick = tick
        self._trouble = ""

    def lag(self) -> float:
        """For how many seconds the next turn has been due, or the present one has taken."""
        return max(0.0, time.monotonic() - self.due)

    def is_ripe(self) -> bool:
        return self.due - _EARLY * self._seconds <= time.monotonic()

    def take_turn(self) -> None:
        self.tick_once()
        self.due = time.monotonic() + self._seconds

    def tick_once(self) -> None:
        """Catches every exception: a tick that fails must not end the loop."""
        try:
            self._tick()
        except WorkflowError as error:
            # Trouble that lasts is one line in the log, and one more when it is over.
            if error.message != self._trouble:
                log.warning("%s: %s", self.name, error.message)
            self._trouble = error.message
        except Exception:  # the tick of a loop
            log.exception("%s failed", self.name)
        else:
            if self._trouble:
                log.info("%s: works again", self.name)
            self._trouble = ""


class Schedule:
    """Gives each loop its turns, one after the other in one thread.

    A turn that takes long delays the others by up to twice _LATE_SECONDS: then another thread goes on with them.
    """

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._waiting = list(loops)
        """The loops that do not have their turn now."""
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._sleeps = False
        """Whether a thread waits for the next turn. There is never a second one that does."""
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for loop in self._waiting:
            metrics.loop_started(loop.name, loop.lag)
        self._add_thread(self._serve)
        self._add_thread(self._guard)

    def stop(self) -> None:
        """Let the threads end after the present turns."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait up to so many seconds for the end of all threads."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _add_thread(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"loops {len(self._threads)}", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _serve(self) -> None:
        while loop := self._next():
            loop.take_turn()
            with self._changed:
                self._waiting.append(loop)
                self._changed.notify()

    def _next(self) -> Loop | None:
        """Wait for the loop whose turn is next. Returns None if this thread is not needed any more."""
        with self._changed:
            while not self._stop.is_set():
                loop = min(self._waiting, key=lambda each: each.due, default=None)
                if loop is not None and loop.is_ripe():
                    self._waiting.remove(loop)
                    return loop
                if self._sleeps:
                    return None
                self._sleeps = True
                self._changed.wait(None if loop is None else loop.due - time.monotonic())
                self._sleeps = False
        return None

    def _guard(self) -> None:
        """Add a thread whenever the turns of all that there are take long."""
        while not self._stop.wait(_LATE_SECONDS):
            with self._changed:
                if not self._sleeps and any(loop.lag() > _LATE_SECONDS for loop in self._waiting):
                    self._add_thread(self._serve)
