"""Threads that run one call each at a time and never keep the interpreter from ending."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

Report = Callable[[], object]
P = ParamSpec("P")
T = TypeVar("T")

_BLOCKING_CALLS = 40
"""So many calls of `in_thread` are in progress; the others wait for a thread."""


class Threads:
    """At most `places` threads, started when they are needed."""

    def __init__(self, places: int, name: str) -> None:
        self.places = places
        self._name = name
        self.begin_afresh()

    def begin_afresh(self) -> None:
        """Begin without threads and calls. A forked process has neither, and no way to see that."""
        self._queue: SimpleQueue[tuple[Callable[[Any], Report | None], Any] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[Any], Report | None], argument: Any) -> None:
        """Call in a thread. `call` raises nothing. What it returns reports its end, once the thread counts as idle.

        The next call, which the report may bring about, so finds this thread and starts no other.
        Raises RuntimeError, and calls nothing, if the machine gives not even one thread.
        """
        if len(self._threads) < self.places and not self._idle.acquire(blocking=False):
            self._add_thread()
        self._queue.put((call, argument))

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

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
            report = call(argument)
            del call, argument
            if len(self._threads) < self.places:
                self._idle.release()
            if report is not None:
                report()
            del report


# --- calls of an event loop ------------------------------------------------------------------------------------------


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that blocks, with the context variables of this task. Returns what it returns.

    A call costs one entry in a queue and one wake-up of the loop: half of the CPU time of `anyio.to_thread`.
    One whose task is cancelled goes on, and its result is dropped.
    """
    call = _Call(partial(copy_context().run, function, *args, **kwargs))
    _blocking.submit(_Call.run, call)
    result: T = await call.outcome
    return result


class _Call:
    """A call, and the place of its outcome in the event loop."""

    __slots__ = ("_function", "_loop", "outcome")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Any] = self._loop.create_future()

    def run(self) -> Report:
        result, error = None, None
        try:
            result = self._function()
        except BaseException as raised:  # noqa: BLE001 - the end of a thread: raised again in the task that waits
            error = raised
        return partial(self._report, result, error)

    def _report(self, result: Any, error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop has been closed, so its task is gone, too
            self._loop.call_soon_threadsafe(self._end, result, error)

    def _end(self, result: Any, error: BaseException | None) -> None:
        if self.outcome.cancelled():
            return
        if error is None:
            self.outcome.set_result(result)
        else:
            self.outcome.set_exception(error)


_blocking = Threads(_BLOCKING_CALLS, "call")

os.register_at_fork(after_in_child=_blocking.begin_afresh)
