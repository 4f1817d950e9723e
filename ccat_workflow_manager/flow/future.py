"""The future that a call of a task or a block returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from enum import StrEnum
from typing import Any


class TaskState(StrEnum):
    """The state of a task or a block. The members compare equal to their names."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class TaskFuture(asyncio.Future[Any]):
    """The result of one call. Passing it to another task makes that task wait for this one."""

    __slots__ = ("_on_cancel", "attempts", "backend", "engine", "id", "is_running", "name", "stderr", "stdout",
                 "workflow_id")  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: object, name: str, number: int) -> None:
        super().__init__(loop=loop)
        self.engine: object = engine
        self.name = name
        self.id = f"{name}.{number:06d}"
        self.workflow_id: str | None = None
        self.backend: str = ""
        self.is_running = False
        self.attempts = 1
        self.stdout: str | None = None
        """With `capture_stdio`: the path of the file with the output of the program."""
        self.stderr: str | None = None
        self._on_cancel: Callable[[TaskFuture], None] | None = None

    @property
    def state(self) -> TaskState:
        if not self.done():
            return TaskState.RUNNING if self.is_running else TaskState.PENDING
        if self.cancelled():
            return TaskState.CANCELLED
        # `exception()` would count as a look at the error, which then would never be reported.
        return TaskState.DONE if self._exception is None else TaskState.FAILED

    def cancel(self, msg: Any | None = None) -> bool:
        """Stop the task: it will not start, or its processes are ended."""
        if not super().cancel(msg):
            return False
        if self._on_cancel is not None:
            self._on_cancel(self)
        return True

    def on_cancel(self, call: Callable[[TaskFuture], None] | None) -> None:
        """What a cancel calls, for the engine."""
        self._on_cancel = call

    def fail(self, error: BaseException, *, reported: bool = False) -> None:
        """Set the error. With `reported`, asyncio does not complain if no code looks at it."""
        self.set_exception(error)
        if reported:
            self.exception()

    def __repr__(self) -> str:
        return f"<{self.id} {self.state}>"


class BlockFuture(TaskFuture):
    """The result of a block. A block that awaits itself would wait for ever, so that is an error."""

    __slots__ = ("check_await", "members", "waits_for")

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: object, name: str, number: int) -> None:
        super().__init__(loop, engine, name, number)
        self.members: set[TaskFuture] = set()
        """The unfinished calls that were made in the block."""
        self.waits_for: set[BlockFuture] = set()
        """The blocks on which calls made in this block depend."""
        self.check_await: Callable[[BlockFuture], None] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        if self.check_await is not None and not self.done():
            self.check_await(self)
        return super().__await__()

    __iter__ = __await__
