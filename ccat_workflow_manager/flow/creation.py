"""The arguments of `WorkflowEngine.create`, and the two ways to use its result."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ccat_workflow_manager.flow.errors import FlowError
from ccat_workflow_manager.flow.execution import ExecutionBackend


class _Engine(Protocol):
    async def shutdown(self) -> None: ...


Engine = TypeVar("Engine", bound=_Engine)


@dataclass(slots=True)
class Creation(Generic[Engine]):
    """`await WorkflowEngine.create(...)`, or `async with` the same."""

    make: Callable[[], Coroutine[Any, Any, Engine]]
    engine: list[Engine] = field(default_factory=list)

    def __await__(self) -> Generator[Any, None, Engine]:
        return self.make().__await__()

    async def __aenter__(self) -> Engine:
        self.engine.append(await self.make())
        return self.engine[0]

    async def __aexit__(self, *_: object) -> None:
        await self.engine.pop().shutdown()


def directory_of(given: str | os.PathLike[str] | None) -> str:
    directory = os.path.abspath(os.getcwd() if given is None else given)
    os.makedirs(directory, exist_ok=True)
    return directory


def checked(backend: object) -> ExecutionBackend:
    if isinstance(backend, ExecutionBackend):
        return backend
    if asyncio.iscoroutine(backend):
        backend.close()
        raise FlowError("the backend is a coroutine; await factory.create_backend(...) first")
    raise FlowError(f"{backend!r:.200} is no backend; make one with factory.create_backend(name, config)")
