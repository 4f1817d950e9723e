"""A definition prepared for planning: everything that is the same for all its runs, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.definition.checks import same_items
from ccat_workflow_manager.definition.graph import topological_order
from ccat_workflow_manager.definition.inputs import InputSpec
from ccat_workflow_manager.definition.parameters import ParameterSchema
from ccat_workflow_manager.definition.secrets import texts_of
from ccat_workflow_manager.definition.spec import (
    Dependency,
    Match,
    PipelineSpec,
    StepSpec,
    canonical,
    effective_files,
    effective_inputs,
    effective_resources,
    effective_retry,
)
from ccat_workflow_manager.definition.substitution import PARAMETERS, parse_template, whole_parameter
from ccat_workflow_manager.definition.tolerance import allowed_losses
from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import JSON, invalid, weight
from ccat_workflow_manager.lifecycle.breaker import program_digest
from ccat_workflow_manager.lifecycle.models import Resources, RetryPolicy


class Edge(NamedTuple):
    """A dependency of a step: the position of the other step, and whether each item waits for its own item only."""

    upstream: int
    match: Match
    tolerate: int | str | None = None
    """How many step runs of the other step may end without completing, or which share of them."""
    fail_fast: bool = False
    """The tolerance is decided as soon as it is exceeded."""
    weak: bool = False
    """The other step must only be over."""

    @property
    def soft(self) -> bool:
        """A loss in the other step need not keep this one from running."""
        return self.weak or self.tolerate is not None

    def allowed(self, total: int) -> int:
        """How many of the `total` step runs of the other step may be lost."""
        return total if self.tolerate is None else allowed_losses(self.tolerate, total)


class ParameterUse(NamedTuple):
    """A text in the definition that needs a parameter."""

    names: tuple[str, ...]
    path: str
    """Of the text."""


class GlobUse(NamedTuple):
    """A pattern of paths whose matches are the items of a step."""

    pattern: str
    path: str
    """Of the pattern in the definition."""


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step with its position in the order of execution, its defaults merged and its dependencies resolved."""

    position: int
    index: int
    """Its number in the definition, for the paths of faults."""
    spec: StepSpec
    resources: Resources
    retry: RetryPolicy
    backend: str | None
    """The backend that the step itself names; a run cannot change it."""
    dependencies: tuple[Edge, ...]
    items: Sequence[JSON] | ParameterUse | GlobUse | None
    """The literal list of foreach, the parameter that holds it, the pattern that finds it, or None."""
    uses: tuple[ParameterUse, ...]
    files: Mapping[str, str]
    """The SHA-256 of each file that the program finds at `/workflow/code`, by name."""
    inputs: Sequence[tuple[str, InputSpec]]
    """Those of the pipeline and its own, each with its path in the definition."""
    program: str
    """Digest of the part of its definition that decides what a step run does: no items, dependencies and image."""


@dataclass(frozen=True, slots=True)
class CompiledPipeline:
    """A definition and what follows from it. `steps` are in topological order: the index is the position."""

    spec: PipelineSpec
    content_hash: str
    schema: ParameterSchema
    steps: tuple[CompiledStep, ...]
    weight: int
    """About how much memory it takes, for caches."""

    @property
    def default_backend(self) -> str | None:
        """The backend of steps that name none, in runs that name none."""
        return self.spec.defaults.backend

    def step(self, name: str) -> CompiledStep:
        """The step with this name."""
        return next(step for step in self.steps if step.spec.name == name)

    def validate_parameters(self, parameters: Mapping[str, JSON]) -> dict[str, JSON]:
        """The parameters of a run with defaults filled in. Raises Invalid with paths under `parameters`."""
        return self.schema.validate(parameters)


_BASE_WEIGHT = 500
_NOT_THE_PROGRAM = {"description", "foreach", "depends_on", "image"}


_MOST_WEIGHT = 2_000_000
_compiled: BoundedCache[PipelineSpec, CompiledPipeline] = BoundedCache(_MOST_WEIGHT)


def compile_pipeline(spec: PipelineSpec) -> CompiledPipeline:
    """The compiled form of a definition, cached."""
    found = _compiled.get(spec)
    if found is None:
        found = _compile(spec)
        _compiled.put(spec, found, found.weight)
    return found


def _compile(spec: PipelineSpec) -> CompiledPipeline:
    position_of = _positions(spec)
    by_name = {step.name: step for step in spec.steps}
    steps = []
    for index, step in enumerate(spec.steps):
        edges = tuple(_edge(wanted, step, by_name[wanted.step], position_of[wanted.step]) for wanted in step.depends_on)
        compiled = CompiledStep(
            position=position_of[step.name],
            index=index,
            spec=step,
            resources=effective_resources(spec, step),
            retry=replace(effective_retry(spec, step), irreversible_after=step.irreversible_after),
            backend=step.backend,
            dependencies=edges,
            items=_items(step, index),
            uses=tuple(_uses(step, index, inputs := effective_inputs(spec, index))),
            files={name: each.sha256 for name, each in effective_files(spec, step).items()},
            inputs=inputs,
            program=program_digest(
                {
                    "step": step.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_THE_PROGRAM),
                    "defaults": spec.defaults.model_dump(mode="json", exclude_defaults=True),
                    **spec.model_dump(mode="json", include={"files", "inputs"}, exclude_defaults=True),
                }
            ),
        )
        steps.append(compiled)
    steps.sort(key=lambda compiled: compiled.position)
    schema = ParameterSchema(spec.parameters)
    return CompiledPipeline(spec, spec.content_hash, schema, tuple(steps), _BASE_WEIGHT + weight(canonical(spec)))


def _positions(spec: PipelineSpec) -> dict[str, int]:
    index_of = {step.name: index for index, step in enumerate(spec.steps)}
    order = topological_order([[index_of[wanted.step] for wanted in step.depends_on] for step in spec.steps])
    if len(order) < len(spec.steps):
        raise invalid([Fault("steps", "depend on each other in a circle")])
    return {spec.steps[index].name: position for position, index in enumerate(order)}


def _edge(wanted: Dependency, step: StepSpec, upstream: StepSpec, position: int) -> Edge:
    match, tolerate = _match(wanted, step, upstream), wanted.tolerate
    if tolerate is None and wanted.wait == "all" and match == "all" and not wanted.weak:
        tolerate = 0  # the first loss decides, unless all are to be awaited
    return Edge(position, match, tolerate, tolerate is not None and wanted.wait == "fail_fast", wanted.weak)


def _match(wanted: Dependency, step: StepSpec, upstream: StepSpec) -> Match:
    if wanted.match is not None:
        return wanted.match
    return "key" if same_items(step.foreach, upstream.foreach) else "all"


def _items(step: StepSpec, index: int) -> Sequence[JSON] | ParameterUse | GlobUse | None:
    if isinstance(step.foreach, dict):
        return GlobUse(step.foreach["glob"], f"steps[{index}].foreach.glob")
    if isinstance(step.foreach, str):
        return ParameterUse(whole_parameter(step.foreach) or (), f"steps[{index}].foreach")
    return step.foreach  # type: ignore[no-any-return]


def _uses(step: StepSpec, index: int, inputs: Sequence[tuple[str, InputSpec]]) -> list[ParameterUse]:
    texts = [(f"steps[{index}].command[{number}]", text) for number, text in enumerate(step.command)]
    texts += [(f"steps[{index}].environment.{name}", text) for name, text in texts_of(step.environment).items()]
    texts.append((f"steps[{index}].image", step.image or ""))
    texts += [(path, f"{each.source}\n{each.to or ''}") for path, each in inputs]
    return [
        ParameterUse(reference.names[1:], path)
        for path, text in texts
        for reference in parse_template(text).references
        if reference.names[0] == PARAMETERS
    ]
