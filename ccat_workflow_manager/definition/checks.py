"""Checks of a pipeline definition beyond the types of its fields: graph, substitutions, parameters, items.

They work on the raw definition and skip fields of the wrong type, so that all faults are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ccat_workflow_manager.definition import variables
from ccat_workflow_manager.definition.graph import cycles
from ccat_workflow_manager.definition.inputs import path_problem
from ccat_workflow_manager.definition.keys import with_keys
from ccat_workflow_manager.definition.parameters import default_faults
from ccat_workflow_manager.definition.schema_check import declared_types, reference_problem, schema_faults
from ccat_workflow_manager.definition.substitution import (
    ITEM,
    PARAMETERS,
    argument_problem,
    image_template_problem,
    parse_template,
    whole_parameter,
)
from ccat_workflow_manager.definition.tolerance import combination_faults
from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import JSON, PathPart, canonical_json, kind, listed, path_text, shown, similar
from ccat_workflow_manager.lifecycle.retry import NEVER_RETRIED

MAX_STEPS = 1000
MAX_DEPENDENCIES = 20_000
MAX_ITEMS = 100_000


@dataclass(slots=True)
class _Edge:
    """One entry of depends_on."""

    upstream: str
    entry: dict[str, JSON]
    path: tuple[PathPart, ...]


@dataclass(slots=True)
class _Step:
    """A step, as far as it can be read."""

    index: int
    raw: dict[str, JSON]
    edges: list[_Edge] = field(default_factory=list)

    @property
    def name(self) -> str | None:
        name = self.raw.get("name")
        return name if isinstance(name, str) else None

    def path(self, *more: PathPart) -> str:
        return path_text(["steps", self.index, *more])


def definition_faults(raw: object) -> Iterator[Fault]:
    """Every fault of a raw definition except wrong types and ranges of single fields; found lazily."""
    if not isinstance(raw, dict):
        return
    schema = {} if raw.get("parameters") is None else raw["parameters"]
    wrong_schema = schema_faults(schema)
    yield from wrong_schema or default_faults(schema)
    if len(_list(raw.get("steps"))) > MAX_STEPS:
        return
    steps = [_read(index, step) for index, step in enumerate(_list(raw.get("steps"))) if isinstance(step, dict)]
    yield from _graph_faults(steps)
    for step in steps:
        yield from _text_faults(step, schema)
        yield from _variable_faults(step)
        yield from _foreach_faults(step, schema, check_type=not wrong_schema)
        yield from _policy_faults(step.raw, ("steps", step.index))
    yield from _common_input_faults(raw, steps, schema)
    yield from _policy_faults(_dict(raw.get("defaults")), ("defaults",))


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(index: int, raw: dict[str, JSON]) -> _Step:
    step = _Step(index, raw)
    for number, entry in enumerate(_list(raw.get("depends_on"))):
        path: tuple[PathPart, ...] = ("steps", index, "depends_on", number)
        if isinstance(entry, str):
            step.edges.append(_Edge(entry, {}, path))
        elif isinstance(entry, dict) and isinstance(entry.get("step"), str):
            step.edges.append(_Edge(entry["step"], entry, path))
    return step


# --- graph ----------------------------------------------------------------------------------------------------------


def _graph_faults(steps: Sequence[_Step]) -> Iterator[Fault]:
    if (total := sum(len(step.edges) for step in steps)) > MAX_DEPENDENCIES:
        yield Fault("steps", f"name {total} dependencies; a pipeline may have {MAX_DEPENDENCIES}")
        return
    by_name: dict[str, _Step] = {}
    for step in steps:
        if step.name is not None and by_name.setdefault(step.name, step) is not step:
            first = by_name[step.name].path()
            yield Fault(step.path("name"), f"is the name of {first} too; every step needs a name of its own")
    for step in steps:
        yield from _edge_faults(step, by_name)
    yield from _cycle_faults(steps, by_name)


def _edge_faults(step: _Step, by_name: dict[str, _Step]) -> Iterator[Fault]:
    named: set[str] = set()
    for edge in step.edges:
        at = path_text(edge.path)
        if edge.upstream == step.name:
            yield Fault(at, f"makes {step.name} depend on itself")
        elif edge.upstream not in by_name:
            close = similar(edge.upstream, by_name)
            hint = f"did you mean {close}?" if close else f"there are {listed(by_name)}"
            yield Fault(at, f"names no step of this pipeline ({shown(edge.upstream)}); {hint}")
        elif edge.upstream in named:
            yield Fault(at, f"names {edge.upstream} a second time")
        else:
            same = same_items(step.raw.get("foreach"), by_name[edge.upstream].raw.get("foreach"))
            if edge.entry.get("match") == "key" and not same:
                both = f"{step.name or 'this step'} and in {edge.upstream}"
                message = f"needs the same foreach in {both}; write all, or leave it out"
                yield Fault(path_text([*edge.path, "match"]), message)
            yield from combination_faults(edge.entry, edge.path, same_foreach=same)
        named.add(edge.upstream)


def same_items(one: JSON, other: JSON) -> bool:
    """Whether two values of foreach have the same items, so that each item can wait for its own."""
    return one is not None and other is not None and canonical_json(one) == canonical_json(other)


def _cycle_faults(steps: Sequence[_Step], by_name: dict[str, _Step]) -> Iterator[Fault]:
    position = {step.index: number for number, step in enumerate(steps)}
    upstreams = [
        [
            position[by_name[edge.upstream].index]
            for edge in step.edges
            if edge.upstream in by_name and edge.upstream != step.name
        ]
        for step in steps
    ]
    for cycle in cycles(upstreams):
        names = [steps[number].name or "" for number in cycle]
        edge = next(edge for edge in steps[cycle[0]].edges if edge.upstream == names[1 % len(names)])
        yield Fault(path_text(edge.path), f"closes a cycle: {' -> '.join([*names, names[0]])}")


# --- texts ----------------------------------------------------------------------------------------------------------


def _text_faults(step: _Step, schema: JSON) -> Iterator[Fault]:
    texts: list[tuple[str, object]] = [
        (step.path("command", number), text) for number, text in enumerate(_list(step.raw.get("command")))
    ]
    texts += [(step.path("environment", name), text) for name, text in _dict(step.raw.get("environment")).items()]
    texts.append((step.path("image"), step.raw.get("image")))
    texts += _input_texts(step.raw, ("steps", step.index))
    for at, text in texts:
        if isinstance(text, str):
            problems = template_problems(text, schema, with_items=step.raw.get("foreach") is not None)
            yield from (Fault(at, problem) for problem in problems)
            if too_long := argument_problem(text):
                yield Fault(at, too_long)
    command, image = _list(step.raw.get("command")), step.raw.get("image")
    if command and command[0] == "":
        yield Fault(step.path("command", 0), "is empty; it must name a program")
    if isinstance(image, str) and (problem := image_template_problem(image)):
        yield Fault(step.path("image"), problem)


def _input_texts(owner: dict[str, JSON], path: tuple[PathPart, ...]) -> list[tuple[str, object]]:
    """The texts of `inputs` that may contain substitutions."""
    found: list[tuple[str, object]] = []
    for number, entry in enumerate(_list(owner.get("inputs"))):
        at = (*path, "inputs", number)
        if isinstance(entry, dict):
            found += [(path_text([*at, name]), entry.get(name)) for name in ("from", "to")]
        else:
            found.append((path_text(at), entry))
    return found


def _common_input_faults(raw: dict[str, Any], steps: Sequence[_Step], schema: JSON) -> Iterator[Fault]:
    """Faults of the inputs of the pipeline, which all its steps have."""
    without_items = next((step for step in steps if step.raw.get("foreach") is None), None)
    for at, text in _input_texts(raw, ()):
        for problem in template_problems(text, schema, with_items=True) if isinstance(text, str) else ():
            yield Fault(at, problem)
        if isinstance(text, str) and without_items and any(r.names == ITEM for r in parse_template(text).references):
            yield Fault(at, f"uses ${{item}}, but the step {without_items.name or without_items.index} has no foreach")


def template_problems(text: str, schema: JSON, with_items: bool) -> list[str]:
    """What is wrong with the substitutions in a text."""
    if "${" not in text:
        return []
    template = parse_template(text)
    problems = list(template.problems)
    for reference in template.references:
        if reference.names == ITEM and not with_items:
            problems.append("uses ${item}, but this step has no foreach")
        if reference.names[0] == PARAMETERS and (problem := reference_problem(schema, reference.names[1:])):
            problems.append(problem)
    return problems


def _variable_faults(step: _Step) -> Iterator[Fault]:
    """Faults of the environment. A value that a substitution spoils is refused when the step is launched."""
    in_container = step.raw.get("image") is not None
    for name, value in _dict(step.raw.get("environment")).items():
        problem = variables.name_problem(name) or (variables.container_name_problem(name) if in_container else None)
        if problem is None and in_container and isinstance(value, str):
            problem = variables.container_value_problem(value)
        if problem:
            yield Fault(step.path("environment", name), problem)


def _policy_faults(owner: dict[str, JSON], path: tuple[PathPart, ...]) -> Iterator[Fault]:
    yield from _literal_faults(owner.get("resources"), (*path, "resources"))
    for number, reason in enumerate(_list(_dict(owner.get("retry")).get("on"))):
        if isinstance(reason, str) and reason in NEVER_RETRIED:
            at = path_text([*path, "retry", "on", number])
            yield Fault(at, f"is {reason}, which is never retried by a policy, only by a person")


def _literal_faults(value: object, path: tuple[PathPart, ...]) -> Iterator[Fault]:
    """Every `${...}` where nothing is substituted: it would reach the scheduler as text."""
    waiting: list[tuple[tuple[PathPart, ...], object]] = [(path, value)]
    while waiting:
        at, one = waiting.pop()
        if isinstance(one, str) and "${" in one:
            message = "contains ${...}, but only command, environment, image and inputs can, and foreach as a whole"
            yield Fault(path_text(at), message)
        elif isinstance(one, dict):
            waiting += [((*at, name), inner) for name, inner in one.items()]
        elif isinstance(one, list):
            waiting += [((*at, index), inner) for index, inner in enumerate(one)]


# --- foreach --------------------------------------------------------------------------------------------------------


def _foreach_faults(step: _Step, schema: JSON, check_type: bool) -> Iterator[Fault]:
    foreach = step.raw.get("foreach")
    at = step.path("foreach")
    if foreach is None:
        return
    if isinstance(foreach, list):
        if len(foreach) > MAX_ITEMS:
            yield Fault(at, f"has {len(foreach)} items; at most {MAX_ITEMS} are allowed")
        elif fault := with_keys(foreach, ("steps", step.index, "foreach"))[1]:
            yield fault
        yield from _literal_faults(foreach, ("steps", step.index, "foreach"))
    elif isinstance(foreach, dict):
        yield from _glob_faults(step, foreach, schema)
    elif not isinstance(foreach, str):
        yield Fault(at, f"must be a list, ${{parameters.NAME}} as a whole or {{glob: PATTERN}}; not {kind(foreach)}")
    elif (names := whole_parameter(foreach)) is None:
        yield Fault(at, "must be a list, or ${parameters.NAME} as a whole and nothing around it")
    elif check_type:
        if problem := reference_problem(schema, names):
            yield Fault(at, problem)
        elif "array" not in (types := declared_types(schema, names) or ()):
            what = f"as {' or '.join(types)}" if types else "without a type"
            yield Fault(at, f"needs a list, but {foreach} is declared {what}; declare it with type: array")


def _glob_faults(step: _Step, foreach: dict[str, JSON], schema: JSON) -> Iterator[Fault]:
    pattern, at = foreach.get("glob"), step.path("foreach", "glob")
    for name in foreach.keys() - {"glob"}:
        yield Fault(step.path("foreach", name), "unknown field; known: glob")
    if not isinstance(pattern, str):
        yield Fault(at, f"must be a pattern of paths, not {kind(pattern)}" if "glob" in foreach else "is required")
        return
    if problem := path_problem(pattern):
        yield Fault(at, problem)
    for reference in parse_template(pattern).references:
        if reference.names[0] != PARAMETERS:
            yield Fault(at, f"uses {reference}, but only parameters are known before there are step runs")
    yield from (Fault(at, problem) for problem in template_problems(pattern, schema, with_items=True))
