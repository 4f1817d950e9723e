"""The interface between the engine and what runs its tasks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.flow.errors import FlowError
from ccat_workflow_manager.flow.future import TaskFuture
from ccat_workflow_manager.flow.options import PLAIN, TaskOptions


@dataclass(slots=True, eq=False)
class Work:
    """A task whose arguments are known: one command, or one function with its arguments."""

    future: TaskFuture
    command: Sequence[str] | None = None
    function: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None
    options: TaskOptions = PLAIN
    capture_stdio: bool = False
    attempt: int = 1
    stop: Callable[[], None] | None = None
    """Ends the work where it runs. Set by the backend; may be called from any thread."""

    @property
    def name(self) -> str:
        return self.future.id


@dataclass(frozen=True, slots=True)
class Failed:
    """The work ended with this error; anything else that is reported is the result."""

    error: BaseException


Report: TypeAlias = "Callable[[Work, Any], None]"


class ExecutionBackend(ABC):
    """Runs works. `start` and `cancel` are called in the event loop and never wait."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.work_dir = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._report: Report | None = None
        self._mail: deque[tuple[Work, Any]] = deque()
        self._announced = False

    def __await__(self) -> Generator[Any, None, Any]:
        """`await Backend()` is the backend itself, as programs write it."""

        async def itself() -> ExecutionBackend:
            return self

        return itself().__await__()

    async def __aenter__(self) -> ExecutionBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    # --- what a backend adds -----------------------------------------------------------------------------------------

    @property
    def refuses_functions(self) -> str | None:
        """Why function tasks cannot run here; None if they can."""
        return None

    @property
    def executes(self) -> bool:
        """False: tasks run nothing and leave no files."""
        return True

    @property
    def own_directories(self) -> bool:
        """True: each program works in a directory of its own, which is not that of the engine."""
        return False

    shell: bool = False
    """A shell runs command lines, unless a task says otherwise."""

    retries: bool = False
    """The backend itself repeats a program that failed."""

    durable: bool = False
    """Programs go on when the engine ends. Only a cancel of their future ends them."""

    @abstractmethod
    def start(self, work: Work) -> None:
        """Begin a work. Its end is reported with `post`."""

    @abstractmethod
    def cancel(self, work: Work) -> None:
        """End a work. The engine no longer waits for its report."""

    @abstractmethod
    async def shutdown(self) -> None:
        """End everything that still runs and release threads and processes. Returns when they are gone."""

    def abandon(self) -> None:  # noqa: B027  doing nothing is a good default
        """End the processes of this backend at once, without an event loop."""

    # --- reports -----------------------------------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop, report: Report, work_dir: str) -> None:
        """Called by the engine that is going to use this backend. Raises FlowError if another one uses it."""
        if self._report is not None:
            raise FlowError(f"the backend {self.name} belongs to another engine; create one for each")
        self._loop, self._report, self.work_dir = loop, report, work_dir

    def detach(self) -> None:
        self._report = None

    def post(self, work: Work, outcome: Any) -> None:
        """Report the end of a work, from any thread. One wake-up of the loop carries many reports."""
        self._mail.append((work, outcome))
        if not self._announced and self._loop is not None:
            self._announced = True
            # The loop may have been closed under the engine: then no code waits for this report.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._announced = False
        mail, report = self._mail, self._report
        while mail:
            work, outcome = mail.popleft()
            if report is not None:
                report(work, outcome)


def failure(work: Work, error: BaseException) -> Failed:
    """The failure of a work by an error of a backend, which then names the task."""
    if isinstance(error, WorkflowError):
        error.add_note(f"in task {work.name}")
    return Failed(error)
