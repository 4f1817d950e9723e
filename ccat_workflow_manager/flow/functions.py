"""Runs function tasks: in this thread, or pickled for another process."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
import traceback
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from importlib import import_module
from typing import Any

from ccat_workflow_manager.flow.errors import FlowError, describe


class _ThreadLoop:
    """An event loop of one thread, used for one coroutine function after another."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._made: list[asyncio.Task[Any]] = []
        self.loop.set_task_factory(self._make)

    def _make(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **how: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **how)  # type: ignore[arg-type,unused-ignore]
        self._made.append(task)
        return task

    def run(self, coroutine: Coroutine[Any, Any, Any], started: Callable[[Callable[[], None]], None]) -> Any:
        """The result of a coroutine. `started` gets a function that cancels it from another thread."""
        task = self.loop.create_task(coroutine)
        started(lambda: self._cancel(task))
        try:
            return self.loop.run_until_complete(task)
        finally:
            left = [each for each in self._made if not each.done()]
            self._made.clear()
            if left:
                for each in left:
                    each.cancel()
                self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
                self._made.clear()

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the coroutine has ended
            self.loop.call_soon_threadsafe(task.cancel)


_of_thread = threading.local()


def call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    started: Callable[[Callable[[], None]], None] = lambda cancel: None,
) -> Any:
    """The result of a function, plain or async, in this thread."""
    result = function(*args, **kwargs)
    if not inspect.iscoroutine(result):
        return result
    loop: _ThreadLoop | None = getattr(_of_thread, "loop", None)
    if loop is None:
        loop = _of_thread.loop = _ThreadLoop()
    return loop.run(result, started)


# --- for another process ---------------------------------------------------------------------------------------------


def packed(task: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """A call as bytes. Raises FlowError that names the task and what cannot travel."""
    data = _pickled((_Portable(function), args, kwargs))
    if isinstance(data, bytes):
        return data
    what = _unpicklable(function, args, kwargs)
    hint = "install cloudpickle, or " if _pickler() is pickle.dumps else ""
    raise FlowError(
        f"task {task} cannot be sent to another process: {what} cannot be pickled ({describe(data)}); {hint}"
        "define it at the top of a module and pass plain data, or use a backend with threads"
    ) from data


def run_packed(data: bytes) -> bytes:
    """In the other process: do a packed call. Returns its outcome for `unpacked`."""
    try:
        function, args, kwargs = pickle.loads(data)
        result = call(function.get(), args, kwargs)
    except BaseException as error:  # noqa: BLE001 - code of a program: raised where the task is awaited
        return _packed_error(error)
    outcome = _pickled((True, result))
    if isinstance(outcome, bytes):
        return outcome
    text = f"the result, of type {type(result).__name__}, cannot be pickled ({describe(outcome)})"
    return pickle.dumps((False, FlowError(f"{text}; return plain data"), ""))


def unpacked(data: bytes) -> Any:
    """The result of a packed call. Raises what the call raised."""
    succeeded, value, *rest = pickle.loads(data)
    if succeeded:
        return value
    if rest and rest[0]:
        value.add_note(rest[0])
    raise value


def _packed_error(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    data = _pickled((False, error, text), and_back=True)
    return data if isinstance(data, bytes) else pickle.dumps((False, FlowError(describe(error)), text))


def _pickled(value: object, *, and_back: bool = False) -> bytes | Exception:
    """The value as bytes, or why it cannot be: the classes of a program may raise anything then."""
    try:
        data = _pickler()(value)
        if and_back:
            pickle.loads(data)
    except Exception as error:  # noqa: BLE001 - code of a program: its classes take part in pickling
        return error
    return data


class _Portable:
    """A function that a decorator has replaced under its name, so that plain pickle would not find it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def get(self) -> Callable[..., Any]:
        return self.function

    def __reduce__(self) -> tuple[Any, ...]:
        module, name = self.function.__module__, self.function.__qualname__
        if module == "__main__" or "<locals>" in name or "<lambda>" in name:
            return _Portable, (self.function,)
        return _found, (module, name)


def _found(module: str, name: str) -> _Portable:
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return _Portable(inspect.unwrap(found))


def _pickler() -> Callable[[Any], bytes]:
    try:
        from cloudpickle import dumps
    except ImportError:
        return pickle.dumps
    packer: Callable[[Any], bytes] = dumps
    return packer


def _unpicklable(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [(f"argument {index + 1}", each) for index, each in enumerate(args)]
    named += [(f"argument {name}", each) for name, each in kwargs.items()]
    for what, value in named:
        if not isinstance(_pickled(value), bytes):
            return f"{what}, of type {type(value).__name__},"
    return f"the function {function.__qualname__}"
