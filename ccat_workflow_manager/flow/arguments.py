"""Futures among the arguments of a call: found, and replaced by their results."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ccat_workflow_manager.flow.errors import FlowError

_DEEPEST = 50
_CONTAINERS = (list, tuple, dict, set, frozenset)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def futures_in(task: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[asyncio.Future[Any]]:
    """All futures among the arguments, also inside lists, tuples, sets and dictionaries."""
    found: list[asyncio.Future[Any]] = []
    _collect(task, args, found, 0)
    if kwargs:
        _collect(task, kwargs.values(), found, 0)
    return found


def _collect(task: str, values: Iterable[Any], found: list[asyncio.Future[Any]], depth: int) -> None:
    if depth > _DEEPEST:
        raise FlowError(f"task {task}: its arguments are nested more than {_DEEPEST} deep, or contain themselves")
    for value in values:
        if isinstance(value, asyncio.Future):
            found.append(value)
        elif isinstance(value, _CONTAINERS):
            if value:
                _collect(task, value.values() if isinstance(value, dict) else value, found, depth + 1)
        elif inspect.iscoroutine(value):
            name = value.__qualname__
            value.close()
            raise FlowError(
                f"task {task} got the coroutine {name} as an argument; await it first, "
                f"or define {name} as a task or a block of the engine"
            )


def resolved(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """The arguments with the results in place of the futures. What holds no future stays the same object."""
    return tuple(_value(each) for each in args), {name: _value(each) for name, each in kwargs.items()}


def _value(value: Any) -> Any:
    if isinstance(value, asyncio.Future):
        return value.result()
    return _rebuilt(value, _value) if isinstance(value, _CONTAINERS) and value else value


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container of the same type with changed members; the container itself if no member changes."""
    members = list(value.values() if isinstance(value, dict) else value)
    changed = [change(each) for each in members]
    if all(new is old for new, old in zip(changed, members, strict=True)):
        return value
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update(zip(value, changed, strict=True))
        return copied
    if isinstance(value, list) and type(value) is not list:
        same_list = copy.copy(value)
        same_list[:] = changed
        return same_list
    make = getattr(type(value), "_make", type(value))
    return make(changed)
