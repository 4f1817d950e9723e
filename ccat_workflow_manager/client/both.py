"""One implementation for both clients.

A method is written once as a coroutine function. On an AsyncClient it is one. On a Client it is driven to its end at
once: the transport of a Client blocks and never suspends the coroutine, so no event loop is needed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import update_wrapper
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from ccat_workflow_manager.client.transport import Transport

P = ParamSpec("P")
T = TypeVar("T")


class Group:
    """Methods of a client about one thing."""

    def __init__(self, transport: Transport) -> None:
        self._api = transport


class SyncGroup(Group):
    """The methods return results."""


class AsyncGroup(Group):
    """The methods return awaitables."""


class both(Generic[P, T]):  # noqa: N801  a decorator
    """A method with one result."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, group: SyncGroup, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, group: AsyncGroup, owner: type) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __get__(self, group: None, owner: type) -> both[P, T]: ...
    def __get__(self, group: Group | None, owner: type) -> Any:
        if group is None:
            return self
        method = MethodType(self.function, group)
        if isinstance(group, AsyncGroup):
            return method
        return update_wrapper(lambda *args, **kwargs: finished(method(*args, **kwargs)), method)


class both_many(Generic[P, T]):  # noqa: N801
    """A method with results one by one."""

    def __init__(self, function: Callable[Concatenate[Any, P], AsyncGenerator[T, None]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, group: SyncGroup, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, group: AsyncGroup, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, group: None, owner: type) -> both_many[P, T]: ...
    def __get__(self, group: Group | None, owner: type) -> Any:
        if group is None:
            return self
        method = MethodType(self.function, group)
        if isinstance(group, AsyncGroup):
            return method
        return update_wrapper(lambda *args, **kwargs: one_by_one(method(*args, **kwargs)), method)


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking transport has suspended")


def one_by_one(generator: AsyncGenerator[T, None]) -> Iterator[T]:
    """The values of an asynchronous generator that never suspends."""
    try:
        while True:
            try:
                yield finished(generator.__anext__())
            except StopAsyncIteration:
                return
    finally:
        finished(generator.aclose())
