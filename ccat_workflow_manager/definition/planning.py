"""From a definition and the parameters of a run to its step runs, and what each of them waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from ccat_workflow_manager.definition.compiled import CompiledPipeline, CompiledStep, Edge, ParameterUse
from ccat_workflow_manager.definition.items import Globs, items_of
from ccat_workflow_manager.definition.keys import Items
from ccat_workflow_manager.definition.project import DEFAULT_PROJECT, in_project
from ccat_workflow_manager.definition.substitution import (
    ITEM_TEXT,
    PARAMETERS,
    NoValue,
    image_template_problem,
    look_up,
    partly_substituted,
)
from ccat_workflow_manager.errors import MAX_FAULTS, Fault
from ccat_workflow_manager.json_values import JSON, PathPart, invalid, path_text
from ccat_workflow_manager.lifecycle.breaker import breaker_key
from ccat_workflow_manager.lifecycle.models import Resources, RetryPolicy
from ccat_workflow_manager.limits import limits


class PlannedStepRun(NamedTuple):
    """A step run to create. `unmet` counts the steps (not step runs) that it waits for."""

    key: str
    item: JSON
    unmet: int
    breaker_key: UUID | None = None
    """Set if it differs from that of the step, because the image depends on the item."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a run, at its position in topological order."""

    position: int
    name: str
    resources: Resources
    retry: RetryPolicy
    backend: str | None
    dependencies: tuple[Edge, ...]
    step_runs: tuple[PlannedStepRun, ...]
    image: str | None
    """With the parameters substituted."""
    breaker_key: UUID
    """The key of its circuit breaker (`lifecycle.breaker`)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a run."""

    steps: tuple[PlannedStep, ...]

    @property
    def total(self) -> int:
        """Number of step runs."""
        return sum(len(step.step_runs) for step in self.steps)


def plan(
    compiled: CompiledPipeline,
    parameters: Mapping[str, JSON],
    project: str = DEFAULT_PROJECT,
    globs: Globs = MappingProxyType({}),
) -> Plan:
    """The step runs of a run of a project with these parameters, which come from `validate_parameters`.

    `globs` are the matches of the patterns that `items.patterns_of` finds.

    Raises Invalid if a parameter that is needed has no value, if a list holds an item twice, if there would be no step
    run or more than REQUEST_STEP_RUNS, or if an image name is impossible.
    """
    faults: list[Fault] = []
    known: dict[str, Items] = {}
    most = limits().request_step_runs
    items = [items_of(step, parameters, globs, known, faults) for step in compiled.steps]
    total = sum(map(len, items))
    if not faults:
        faults += _missing(compiled, parameters, items)
        if total == 0:
            faults.append(Fault(_decisive_path(compiled), "gives no item to any step, so there is nothing to run"))
        elif total > most:
            message = f"makes {total} step runs; one run may have {most}, the limit REQUEST_STEP_RUNS"
            faults.append(Fault(_decisive_path(compiled), message))
        else:
            faults += islice(_image_faults(compiled, parameters, items), MAX_FAULTS + 1)
    if faults:
        raise invalid(faults)
    return Plan(tuple(_planned(compiled, project, step, parameters, items) for step in compiled.steps))


def _planned(
    compiled: CompiledPipeline,
    project: str,
    step: CompiledStep,
    parameters: Mapping[str, JSON],
    items: Sequence[Items],
) -> PlannedStep:
    unmet = sum(1 for edge in step.dependencies if items[edge.upstream])
    image = step.spec.image

    def key_of(image: str | None) -> UUID:
        return breaker_key(in_project(project, compiled.spec.name), step.program, image)

    def planned(key: str, item: JSON) -> PlannedStepRun:
        if image is None or ITEM_TEXT not in image:
            return PlannedStepRun(key, item, unmet)
        return PlannedStepRun(key, item, unmet, key_of(partly_substituted(image, parameters, item)))

    common = None if image is None else partly_substituted(image, parameters, None)
    return PlannedStep(
        position=step.position,
        name=step.spec.name,
        resources=step.resources,
        retry=step.retry,
        backend=step.backend,
        dependencies=step.dependencies,
        step_runs=tuple([planned(key, item) for key, item in items[step.position]]),
        image=common,
        breaker_key=key_of(common),
    )


def _missing(compiled: CompiledPipeline, parameters: Mapping[str, JSON], items: Sequence[Items]) -> list[Fault]:
    """Parameters without a value that some step run needs."""
    faults = []
    for step in compiled.steps:
        for use in step.uses if items[step.position] else ():
            try:
                look_up(parameters, use.names)
            except NoValue:
                faults.append(Fault(path_text([PARAMETERS, *use.names]), f"has no value, but {use.path} needs one"))
    return faults


def _image_faults(
    compiled: CompiledPipeline, parameters: Mapping[str, JSON], items: Sequence[Items]
) -> Iterator[Fault]:
    """Image names that are impossible with these parameters and items."""
    for step in compiled.steps:
        image, at = step.spec.image, f"steps[{step.index}].image"
        if image is None or not items[step.position]:
            continue
        if ITEM_TEXT not in image:
            if problem := image_template_problem(image, parameters):
                yield Fault(at, f"with these parameters {problem}" if "${" in image else problem)
            continue
        path: tuple[PathPart, ...] = ("steps", step.index, "foreach")
        if isinstance(step.items, ParameterUse):
            path = (PARAMETERS, *step.items.names)
        for index, (_, item) in enumerate(items[step.position]):
            if problem := image_template_problem(image, parameters, item):
                yield Fault(path_text([*path, index]), f"makes an image of {at} that {problem}")


def _decisive_path(compiled: CompiledPipeline) -> str:
    """The path of the one parameter that decides how many step runs there are, else that of all parameters."""
    used = {
        path_text([PARAMETERS, *step.items.names]) for step in compiled.steps if isinstance(step.items, ParameterUse)
    }
    return used.pop() if len(used) == 1 else PARAMETERS
