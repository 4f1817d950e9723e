"""`task_description`: what one task asks of its backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ccat_workflow_manager.definition.synonyms import meant_among
from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.flow.errors import FlowError
from ccat_workflow_manager.hpc.arguments import environment_of, resources_of
from ccat_workflow_manager.lifecycle.models import Resources

_RESOURCES = ("cpu", "memory_gb", "time_hours", "gpu", "partition", "account", "extra")
_RANKS = ("ranks", "cores_per_rank", "gpus_per_rank")
_OTHERS = ("shell", "max_attempts", "environment", "image", "cwd")
_KNOWN = (*_RESOURCES, *_RANKS, *_OTHERS)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """A task description, checked."""

    given: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    """The resources that the description names, `ranks` as CPUs and GPUs."""
    resources: Resources = field(default_factory=Resources)
    limited: bool = False
    """The description names a limit or a resource that only a scheduler or a supervisor can give."""
    shell: bool | None = None
    """None: as the backend does it."""
    max_attempts: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    cwd: str = ""


PLAIN = TaskOptions()


def options_of(task: str, description: object, base: TaskOptions = PLAIN) -> TaskOptions:
    """The options of a description, over those of the definition. Raises FlowError."""
    if description is None:
        return base
    if not isinstance(description, Mapping):
        raise FlowError(f"task {task}: task_description is a mapping, not {description!r:.200}")
    if not description:
        return base
    given = {**base.given, **description}
    for name in given:
        if name not in _KNOWN:
            close = meant_among(str(name), _KNOWN)
            hint = f"; did you mean {close!r}?" if close is not None else ""
            raise FlowError(f"task {task}: task_description has no {name!r}; known are {', '.join(_KNOWN)}{hint}")
    asked = _resources(task, given)
    try:
        resources = resources_of(asked)
        environment = environment_of(given.get("environment"))
    except BackendRejected as error:
        raise FlowError(f"task {task}: task_description: {error.message}") from None
    return TaskOptions(
        given=given,
        asked=asked,
        resources=resources,
        limited=any(given.get(name) for name in _RESOURCES if name != "cpu"),
        shell=_typed(task, given, "shell", bool, None),
        max_attempts=_attempts(task, given),
        environment=environment,
        image=_typed(task, given, "image", str, None),
        cwd=_typed(task, given, "cwd", str, ""),
    )


def _resources(task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: given[name] for name in _RESOURCES if name in given}
    if any(name in given for name in _RANKS):
        ranks, cores, gpus = (_typed(task, given, name, int, default) for name, default in zip(_RANKS, (1, 1, 0),
                                                                                            strict=True))  # fmt: skip
        found.setdefault("cpu", ranks * cores)
        found.setdefault("gpu", ranks * gpus)
    return found


def _attempts(task: str, given: Mapping[str, Any]) -> int:
    number = _typed(task, given, "max_attempts", int, 1)
    if not 1 <= number <= 100:
        raise FlowError(f"task {task}: task_description: max_attempts is a number from 1 to 100, not {number}")
    return int(number)


def _typed(task: str, given: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FlowError(f"task {task}: task_description: {name} is a value of type {kind.__name__}, not {value!r:.200}")
    return value
