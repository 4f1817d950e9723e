"""What the decorators make of a function: a task or a block that belongs to one engine."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MethodType
from typing import Any, Protocol

from ccat_workflow_manager.flow.errors import FlowError, WrongValue
from ccat_workflow_manager.flow.execution import ExecutionBackend
from ccat_workflow_manager.flow.future import TaskFuture
from ccat_workflow_manager.flow.options import TaskOptions, options_of

DESCRIPTION = "task_description"
_QUOTED = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\$`])*\"""")
_SHELL = re.compile(r"\$[A-Za-z_{(]\w*|`|&&|\|\||[|<>;&]")
"""What a shell would act upon."""
_NUMBER = re.compile(r"\.[0-9]+\Z")


class Kind(StrEnum):
    EXECUTABLE = "executable_task"
    FUNCTION = "function_task"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Choices:
    """The arguments of a decorator."""

    backend: str | None = None
    capture_stdio: bool = False
    task_description: Mapping[str, Any] | None = None
    service: bool = False


class Engine(Protocol):
    """What a definition needs of its engine."""

    def backend_for(self, task: str, kind: Kind, name: str | None) -> ExecutionBackend: ...

    def call(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskFuture: ...


class Definition:
    """A decorated function. Calling it makes a task."""

    def __init__(self, engine: Engine, kind: Kind, function: Callable[..., Any], choices: Choices) -> None:
        if not callable(function):
            raise FlowError(f"@flow.{kind} decorates a function, not {function!r:.200}")
        self.name: str = getattr(function, "__name__", type(function).__name__)
        wanted = inspect.unwrap(function)
        if inspect.isgeneratorfunction(wanted) or inspect.isasyncgenfunction(wanted):
            raise FlowError(f"task {self.name} is a generator; return one result, for instance a list")
        if choices.service:
            raise FlowError(f"task {self.name}: there are no service tasks; start the service beside the program")
        if kind is Kind.BLOCK and not inspect.iscoroutinefunction(wanted):
            raise FlowError(f"block {self.name} must be an `async def`: it awaits its tasks")
        self._engine = engine
        self.kind = kind
        self.function = function
        self.capture_stdio = choices.capture_stdio
        self.backend = engine.backend_for(self.name, kind, choices.backend)
        self._signature = _signature(function)
        self.options = self._own_options(choices.task_description)
        functools.update_wrapper(self, function)

    def _own_options(self, description: Mapping[str, Any] | None) -> TaskOptions:
        """Those of the decorator, over the default of a parameter `task_description` of the function."""
        parameter = None if self._signature is None else self._signature.parameters.get(DESCRIPTION)
        default = None if parameter is None or parameter.default is parameter.empty else parameter.default
        return options_of(self.name, description, options_of(self.name, default))

    def __call__(self, *args: Any, **kwargs: Any) -> TaskFuture:
        return self._engine.call(self, args, kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """A function that is decorated in a class is a method."""
        return self if instance is None else MethodType(self, instance)

    def uses_shell(self, options: TaskOptions) -> bool:
        return self.backend.shell if options.shell is None else options.shell

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises TypeError at the call, and not when the task runs."""
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"task {self.name}: {error}") from None

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """The parameters of a function. Many functions of Python that are written in C have none: None."""
    try:
        return inspect.signature(function)
    except ValueError:
        return None


def command_of(task: str, returned: object, shell: bool) -> list[str]:
    """The argument vector of what an executable task has returned. Raises WrongValue."""
    if isinstance(returned, str):
        words = ["/bin/sh", "-c", returned] if shell and returned.strip() else _split(task, returned)
    elif isinstance(returned, Iterable) and not isinstance(returned, bytes | Mapping):
        words = [_word(task, each) for each in returned]
    else:
        hint = "; does it lack a return?" if returned is None else ""
        raise WrongValue(f"task {task} must return a command line or a list of arguments, not {returned!r:.200}{hint}")
    if not words or not words[0]:
        raise WrongValue(f"task {task} returned an empty command; return a command line or a list of arguments")
    if any("\0" in word for word in words):
        raise WrongValue(f"task {task} returned a command with a NUL character, which no program can receive")
    return words


def _split(task: str, line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise WrongValue(f"task {task} returned a command line that cannot be split ({error}): {line!r:.200}") from None
    if (found := _SHELL.search(_QUOTED.sub("", line))) is not None:
        warnings.warn(
            f"task {_NUMBER.sub('', task)}: no shell runs the command, so the program gets {found[0]!r} as it is; "
            'to have a shell, give task_description={"shell": True}',
            stacklevel=2,
        )
    return words


def _word(task: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    path = getattr(value, "__fspath__", None)
    text = path() if path is not None else None
    if not isinstance(text, str):
        raise WrongValue(f"task {task} returned the argument {value!r:.200}; an argument is a text, a number or a path")
    return text
