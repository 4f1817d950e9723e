"""Tasks in this process: functions in its threads or in a pool of processes, programs as its children."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Self

from ccat_workflow_manager.flow import functions
from ccat_workflow_manager.flow.errors import FlowError
from ccat_workflow_manager.flow.execution import ExecutionBackend, Failed, Report, Work
from ccat_workflow_manager.flow.jobs import JobBackend
from ccat_workflow_manager.flow.programs import GRACE_SECONDS, Programs
from ccat_workflow_manager.threads import Threads

log = logging.getLogger(__name__)

LONGEST_SHUTDOWN_SECONDS = 2 * GRACE_SECONDS


def default_places() -> int:
    return min(32, (os.cpu_count() or 1) + 4)


class PoolBackend(ExecutionBackend):
    """Runs at most `places` programs and functions at a time.

    A program whose description names limits runs under the `concurrent` backend of the registry, which keeps them.
    """

    def __init__(
        self,
        name: str,
        places: int,
        executor: Executor | None = None,
        limited: Callable[[], JobBackend] | None = None,
        renewed: Callable[[], Executor] | None = None,
    ) -> None:
        """`renewed` makes another executor when a process of this one has died, which ends the whole executor."""
        super().__init__(name)
        self.places = places
        self._executor = executor
        self._make_executor = renewed
        self._in_threads = executor is None or isinstance(executor, ThreadPoolExecutor)
        self._threads = Threads(places, f"flow-{name}")
        self._programs = Programs()
        self._make_limited = limited
        self._limited: JobBackend | None = None
        self._places_held: dict[Work, threading.Event] = {}
        """What ends the wait of a thread for a program under limits."""
        self._running: set[Work] = set()
        self._closed = False

    def attach(self, loop: asyncio.AbstractEventLoop, report: Report, work_dir: str) -> None:
        super().attach(loop, report, work_dir)
        if self._limited is not None:
            self._limited.detach()
            self._limited.attach(loop, self._limited_ended, work_dir)

    def start(self, work: Work) -> None:
        if self._closed:
            raise FlowError(f"task {work.name} cannot start: the backend {self.name} is shut down")
        if work.command is not None:
            limited = work.options.limited and self._make_limited is not None
            self._threads.submit(self._limited_program if limited else self._program, work)
        elif self._executor is None:
            self._threads.submit(self._function, work)
        elif self._in_threads:
            self._executor.submit(self._function, work)
        else:
            self._in_process(work)
        self._running.add(work)

    def cancel(self, work: Work) -> None:
        self._running.discard(work)
        if work.stop is not None:
            work.stop()

    # --- what threads do ---------------------------------------------------------------------------------------------

    def _program(self, work: Work) -> None:
        if work.future.done():
            return
        work.future.is_running = True
        try:
            self.post(work, self._programs.run(work, self.work_dir))
        except Exception as error:  # noqa: BLE001 - code of a program: raised where the task is awaited
            self.post(work, Failed(error))

    def _limited_program(self, work: Work) -> None:
        """Hold a place while the program runs under its limits."""
        ended = threading.Event()
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._begin_limited, work, ended)
        except RuntimeError:  # the loop was closed under the engine: no code waits for this program
            return
        ended.wait()

    def _function(self, work: Work) -> None:
        if work.future.done() or work.function is None:
            return
        work.future.is_running = True

        def started(cancel: Callable[[], None]) -> None:
            work.stop = cancel
            if work.future.cancelled():
                cancel()

        try:
            result = functions.call(work.function, work.args, work.kwargs or {}, started)
        except asyncio.CancelledError as error:
            cancelled = FlowError(f"task {work.name} was cancelled from inside")
            cancelled.__cause__ = error
            self.post(work, Failed(cancelled))
        except BaseException as error:  # noqa: BLE001 - code of a program: SystemExit too must not end the thread
            self.post(work, Failed(_storable(work, error)))
        else:
            self.post(work, result)

    def post(self, work: Work, outcome: Any) -> None:
        self._running.discard(work)
        super().post(work, outcome)

    # --- programs under limits, in the event loop --------------------------------------------------------------------

    def _begin_limited(self, work: Work, ended: threading.Event) -> None:
        self._places_held[work] = ended
        if work.future.done():
            self._release(work)
            return
        try:
            if self._closed:
                raise FlowError(f"task {work.name} did not start: the backend {self.name} is shut down")
            limited = self._under_limits()
            limited.start(work)
        except Exception as error:  # noqa: BLE001 - a call of a backend: raised where the task is awaited
            self._limited_ended(work, Failed(error))
            return

        def stop() -> None:
            limited.cancel(work)
            self._release(work)

        work.stop = stop

    def _limited_ended(self, work: Work, outcome: Any) -> None:
        self._release(work)
        if self._report is not None:
            self._report(work, outcome)

    def _release(self, work: Work) -> None:
        self._running.discard(work)
        if (ended := self._places_held.pop(work, None)) is not None:
            ended.set()

    def _under_limits(self) -> JobBackend:
        if self._limited is None:
            assert self._make_limited is not None
            assert self._loop is not None
            self._limited = self._make_limited()
            self._limited.attach(self._loop, self._limited_ended, self.work_dir)
        return self._limited

    # --- a pool of processes -----------------------------------------------------------------------------------------

    def _in_process(self, work: Work) -> None:
        assert work.function is not None
        assert self._executor is not None
        data = functions.packed(work.name, work.function, work.args, work.kwargs or {})
        try:
            future = self._executor.submit(functions.run_packed, data)
        except BrokenExecutor as error:
            if self._make_executor is None:
                raise FlowError(f"task {work.name} cannot start: a process of the pool has died") from error
            self._executor = self._make_executor()
            future = self._executor.submit(functions.run_packed, data)
        work.stop = lambda: self._drop(future)
        work.future.is_running = True
        future.add_done_callback(lambda done: self._process_ended(work, done))

    @staticmethod
    def _drop(future: Future[bytes]) -> None:
        future.cancel()

    def _process_ended(self, work: Work, future: Future[bytes]) -> None:
        if future.cancelled():
            self._running.discard(work)
            return
        try:
            self.post(work, functions.unpacked(future.result()))
        except BrokenExecutor as error:
            text = (
                f"task {work.name}: the process that ran it has died: a plain crash, os._exit, too little memory, or a "
                "script that starts its engine without `if __name__ == '__main__':`"
            )
            died = FlowError(text)
            died.__cause__ = error
            self.post(work, Failed(died))
        except BaseException as error:  # noqa: BLE001 - code of a program: raised where the task is awaited
            self.post(work, Failed(_storable(work, error)))

    # --- the end -----------------------------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        self._closed = True
        self._programs.terminate()
        for work in list(self._running):
            if work.stop is not None:
                work.stop()
        self._threads.close()
        if self._limited is not None:
            await self._limited.shutdown()
        await asyncio.get_running_loop().run_in_executor(None, self._join)

    def _join(self) -> None:
        if not self._threads.join(GRACE_SECONDS):
            self._programs.kill()
            if not self._threads.join(1.0):
                log.warning("a function task of the backend %s goes on: a thread cannot be ended", self.name)
        self._programs.kill()
        if self._executor is not None:
            _close(self._executor)

    def abandon(self) -> None:
        self._closed = True
        self._programs.kill()
        self._threads.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            _kill_processes(self._executor)
        if self._limited is not None:
            self._limited.abandon()


class LocalExecutionBackend(PoolBackend):
    """A pool that the program brings: `await LocalExecutionBackend(ThreadPoolExecutor())`."""

    shell = True
    """As in AsyncFlow."""

    def __init__(self, executor: Executor | None = None, name: str = "default") -> None:
        if executor is not None and not isinstance(executor, Executor):
            raise TypeError(f"{type(self).__name__} takes an executor of concurrent.futures, not {executor!r:.200}")
        super().__init__(name, getattr(executor, "_max_workers", None) or default_places(), executor)
        self.executor = executor

    @classmethod
    async def create(cls, executor: Executor | None = None) -> Self:
        """The same as a call of the class, to be awaited."""
        return cls(executor)


class ConcurrentExecutionBackend(LocalExecutionBackend):
    """The same without a shell, as `rhapsody` calls it."""

    shell = False

    def __init__(self, executor: Executor | None = None, name: str = "concurrent") -> None:
        super().__init__(executor, name)


def process_pool(places: int) -> Executor:
    return ProcessPoolExecutor(places, multiprocessing.get_context("spawn"))


def _storable(work: Work, error: BaseException) -> BaseException:
    """An error that a future may hold; one that would end the program becomes a FlowError."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        error.add_note(f"in task {work.name}")
        return error
    wrapped = FlowError(f"task {work.name} raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _close(executor: Executor) -> None:
    """Shut an executor down. Processes that do not end within the grace are killed; threads cannot be."""
    executor.shutdown(wait=False, cancel_futures=True)
    for process in _processes(executor).values():
        process.join(GRACE_SECONDS)
    _kill_processes(executor)


def _kill_processes(executor: Executor) -> None:
    for process in _processes(executor).values():
        if process.is_alive():
            process.kill()


def _processes(executor: Executor) -> Mapping[int, Any]:
    """The processes of a pool. concurrent.futures has no public name for them before Python 3.14."""
    return dict(getattr(executor, "_processes", None) or {})
