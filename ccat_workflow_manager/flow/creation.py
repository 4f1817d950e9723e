"""The arguments of `WorkflowEngine.create`, and the two ways to use its result."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ccat_workflow_manager.flow.errors import FlowError
from ccat_workflow_manager.flow.execution import ExecutionBackend
from ccat_workflow_manager.flow.jobs import NoopExecutionBackend
from ccat_workflow_manager.flow.pool import LocalExecutionBackend


class _Engine(Protocol):
    async def shutdown(self) -> None: ...


Engine = TypeVar("Engine", bound=_Engine)


@dataclass(slots=True)
class Creation(Generic[Engine]):
    """`await WorkflowEngine.create(...)`, or `async with` the same."""

    make: Callable[[], Engine]
    engine: list[Engine] = field(default_factory=list)

    def __await__(self) -> Generator[Any, None, Engine]:
        async def made() -> Engine:
            return self.make()

        return made().__await__()

    async def __aenter__(self) -> Engine:
        self.engine.append(self.make())
        return self.engine[0]

    async def __aexit__(self, *_: object) -> None:
        await self.engine.pop().shutdown()


def directory_of(given: str | os.PathLike[str] | None) -> str:
    directory = os.path.abspath(os.getcwd() if given is None else given)
    os.makedirs(directory, exist_ok=True)
    return directory


def backends_of(given: object, dry_run: bool) -> Sequence[ExecutionBackend]:
    """The backends of an engine, its default first. Raises FlowError."""
    several = given if isinstance(given, list | tuple) else () if given is None else (given,)
    backends = [_checked(each) for each in several] or [LocalExecutionBackend()]
    names = [each.name for each in backends]
    if twice := [name for name in names if names.count(name) > 1]:
        raise FlowError(f"two backends have the name {twice[0]}; give one of them another with `name`")
    return [_Pretending(each) for each in backends] if dry_run else backends


class _Pretending(NoopExecutionBackend):
    """Stands in for a backend in a dry run, and ends it with the engine."""

    def __init__(self, backend: ExecutionBackend) -> None:
        super().__init__(backend.name)
        self.shell = backend.shell
        self._backend = backend

    async def shutdown(self) -> None:
        await super().shutdown()
        await self._backend.shutdown()

    def abandon(self) -> None:
        super().abandon()
        self._backend.abandon()


def _checked(backend: object) -> ExecutionBackend:
    if isinstance(backend, ExecutionBackend):
        return backend
    if asyncio.iscoroutine(backend):
        backend.close()
        raise FlowError("the backend is a coroutine; await factory.create_backend(...) first")
    raise FlowError(f"{backend!r:.200} is no backend; make one with factory.create_backend(name, config)")
