"""What a program meets when a task, its definition or its backend fails."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Any

from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.flow.future import TaskFuture

_TAIL = 2000


class FlowError(WorkflowError):
    """The program uses the engine in a way that cannot work."""

    code = "flow_error"


class WrongValue(FlowError, ValueError):
    """A value that the program gives cannot be used."""

    code = "wrong_value"


class BackendNotAvailable(WrongValue):
    """The backend cannot be used here."""

    code = "backend_not_available"


class TaskFailed(FlowError, RuntimeError):
    """The program of an executable task failed. `exit_code` is minus the signal for a program that was killed."""

    code = "task_failed"

    def __init__(
        self,
        task: str,
        why: str,
        *,
        exit_code: int | None = None,
        stdout: str = "",
        stderr: str = "",
        attempts: int = 1,
    ) -> None:
        shown = (stderr.strip() or stdout.strip())[-_TAIL:]
        times = f" (attempt {attempts})" if attempts > 1 else ""
        super().__init__(f"task {task} failed{times}: {why}" + (f"\n{shown}" if shown else ""))
        self.task = task
        self.why = why
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr
        self.attempts = attempts

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (self.task, self.why, self.exit_code, self.stdout, self.stderr, self.attempts)


def _rebuilt(task: str, why: str, exit_code: int | None, stdout: str, stderr: str, attempts: int) -> TaskFailed:
    return TaskFailed(task, why, exit_code=exit_code, stdout=stdout, stderr=stderr, attempts=attempts)


class DependencyFailed(FlowError):
    """A task could not start because a task that it depends on has failed. `__cause__` is the error of that task."""

    code = "dependency_failed"

    def __init__(self, task: str, dependency: Future[Any], failed: Sequence[Future[Any]]) -> None:
        """`dependency` ends the task; `failed` are all its dependencies that have failed by now."""
        cause = dependency.exception()
        root = cause.root_cause if isinstance(cause, DependencyFailed) else cause
        which = dependency.id if isinstance(dependency, TaskFuture) else repr(dependency)
        super().__init__(f"task {task} did not start: its dependency {which} failed; first cause: {describe(root)}")
        self.failed_dependencies = list(
            dict.fromkeys(each.name if isinstance(each, TaskFuture) else repr(each) for each in failed)
        )
        """The names of these tasks."""
        self.root_cause: BaseException | None = root
        self.__cause__ = cause


DependencyFailureError = DependencyFailed


def describe(error: BaseException | None) -> str:
    """The class and the first line of an error."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def named(error: BaseException, task: str) -> BaseException:
    """The error of a body, with the name of its task; one that would end the loop becomes a FlowError."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        if not isinstance(error, FlowError):
            error.add_note(f"in {task}")
        return error
    wrapped = FlowError(f"{task} raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
