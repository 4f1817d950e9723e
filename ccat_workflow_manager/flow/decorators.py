"""The decorators of an engine, plain or with choices: `@flow.function_task`, `@flow.block(backend="threads")`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn, overload

from ccat_workflow_manager.flow.definition import Choices, Definition, Kind
from ccat_workflow_manager.flow.errors import FlowError


class Decorators(ABC):
    """Make tasks and blocks of functions."""

    @abstractmethod
    def define(self, kind: Kind, function: Callable[..., Any], choices: Choices) -> Definition:
        """The task or block that stands for the function."""

    @overload
    def executable_task(self, function: Callable[..., Any], /) -> Definition: ...
    @overload
    def executable_task(
        self, function: None = None, /, **choices: Any
    ) -> Callable[[Callable[..., Any]], Definition]: ...
    def executable_task(self, function: Callable[..., Any] | None = None, /, **choices: Any) -> Any:
        """A task that runs a program. The function returns its command line or its argument vector."""
        return self._decorator(Kind.EXECUTABLE, function, choices)

    @overload
    def function_task(self, function: Callable[..., Any], /) -> Definition: ...
    @overload
    def function_task(self, function: None = None, /, **choices: Any) -> Callable[[Callable[..., Any]], Definition]: ...
    def function_task(self, function: Callable[..., Any] | None = None, /, **choices: Any) -> Any:
        """A task that runs the function itself, async or not."""
        return self._decorator(Kind.FUNCTION, function, choices)

    @overload
    def block(self, function: Callable[..., Any], /) -> Definition: ...
    @overload
    def block(self, function: None = None, /, **choices: Any) -> Callable[[Callable[..., Any]], Definition]: ...
    def block(self, function: Callable[..., Any] | None = None, /, **choices: Any) -> Any:
        """A part of the program that calls tasks and other blocks, used like a task."""
        return self._decorator(Kind.BLOCK, function, choices)

    def prompt_task(self, *_: object, **__: object) -> NoReturn:
        """There are none: AsyncFlow has tasks that ask a language model."""
        raise FlowError("@flow.prompt_task is not there; ask the model in a function: @flow.function_task")

    def _decorator(self, kind: Kind, function: Callable[..., Any] | None, given: dict[str, Any]) -> Any:
        try:
            choices = Choices(**given)
        except TypeError:
            unknown = ", ".join(sorted(given.keys() - set(Choices.__slots__)))
            raise FlowError(f"@flow.{kind} has no {unknown}; it has {', '.join(Choices.__slots__)}") from None
        if function is not None:
            return self.define(kind, function, choices)
        return lambda decorated: self.define(kind, decorated, choices)
