"""Work that takes long and that many step runs wait for: image pulls, transfers of inputs, checksums of large files.

It runs once per process, in a daemon thread. Step runs that need its result are deferred until it is there, so that the
worker does other work meanwhile. Locks of files keep the processes apart, where the work itself says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ccat_workflow_manager.errors import JobDeferred, StagingError, WorkflowError
from ccat_workflow_manager.execution.launch_spec import Progress
from ccat_workflow_manager.failures import FailureReason

R = TypeVar("R")

_PROGRESS_SECONDS = 1.0
_STALE_SECONDS = 60.0
_SHORT_SECONDS = 5.0
"""How long the worker that starts the work waits for it: what is short needs no second claim."""


class _Work(threading.Thread, Generic[R]):
    """One piece of work. A worker does not wait for it when it ends."""

    def __init__(self, name: str, do: Callable[[], R]) -> None:
        super().__init__(name=name, daemon=True)
        self._do = do
        self.result: R | None = None
        self.error: WorkflowError | None = None
        self._ended: float | None = None

    @property
    def is_stale(self) -> bool:
        """Whether it failed long ago, and another try may succeed."""
        return self.result is None and self._ended is not None and time.monotonic() - self._ended > _STALE_SECONDS

    def run(self) -> None:
        try:
            self.result = self._do()
        except WorkflowError as error:
            self.error = error
        finally:
            self._ended = time.monotonic()


class Background(Generic[R]):
    """The work of one kind that is going on in this process, or whose outcome was not taken yet."""

    def __init__(self, broken: FailureReason) -> None:
        """`broken` is the reason of work that ended with neither a result nor an error of ours."""
        self._broken = broken
        self._going_on: dict[Hashable, _Work[R]] = {}
        self._lock = threading.Lock()

    def result(self, key: Hashable, do: Callable[[], R], progress: Progress, *, name: str, waiting: str) -> R:
        """The result of `do`, which is called unless it is going on. Raises its WorkflowError.

        Raises JobDeferred with the text `waiting` while it goes on.
        """
        with self._lock:
            work = self._going_on.get(key)
            is_new = work is None or work.is_stale
            if work is None or work.is_stale:
                work = self._going_on[key] = _Work(name, do)
                work.start()
        if is_new:
            deadline = time.monotonic() + _SHORT_SECONDS
            while work.is_alive() and time.monotonic() < deadline:
                work.join(_PROGRESS_SECONDS)
                progress()
        if work.is_alive():
            raise JobDeferred(waiting)
        self._going_on.pop(key, None)
        if work.result is None:
            raise work.error or StagingError(self._broken, f"{name} broke off")
        return work.result
