"""The items of `foreach` with their keys: a list, a list parameter, or the matches of a pattern of paths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from posixpath import basename, splitext

from ccat_workflow_manager.definition.compiled import CompiledPipeline, CompiledStep, GlobUse, ParameterUse
from ccat_workflow_manager.definition.inputs import filled_pattern, path_problem
from ccat_workflow_manager.definition.keys import SINGLE, Items, item_keys, keys_of_parts, with_keys
from ccat_workflow_manager.definition.substitution import PARAMETERS, NoValue, look_up
from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import JSON, PathPart, canonical_json, kind, path_text
from ccat_workflow_manager.limits import limits

Globs = Mapping[str, Sequence[str]]
"""The paths that match each pattern."""

_MAGIC = re.compile(r"[*?[]")
_TAIL = re.compile(r"[^*?\]]*\Z")


def patterns_of(compiled: CompiledPipeline, parameters: Mapping[str, JSON], faults: list[Fault]) -> dict[str, GlobUse]:
    """The patterns of `foreach`, with their substitutions, and where each is first used."""
    found: dict[str, GlobUse] = {}
    for step in compiled.steps:
        if isinstance(step.items, GlobUse):
            try:
                pattern = _pattern(step.items, parameters)
            except NoValue as error:
                path = path_text([PARAMETERS, *str(error).split(".")])
                faults.append(Fault(path, f"has no value, but {step.items.path} needs one"))
                continue
            if problem := path_problem(pattern):
                faults.append(Fault(step.items.path, f"after substitution {problem}: {pattern!r}"))
            found.setdefault(pattern, step.items)
    return found


def _pattern(use: GlobUse, parameters: Mapping[str, JSON]) -> str:
    pattern, _ = filled_pattern(use.pattern, parameters, {})
    return re.sub("/+", "/", pattern)


def items_of(
    step: CompiledStep, parameters: Mapping[str, JSON], globs: Globs, known: dict[str, Items], faults: list[Fault]
) -> Items:
    """The items of a step with their keys; steps with the same foreach share them."""
    if step.items is None:
        return [(SINGLE, None)]
    identity = step.spec.foreach if isinstance(step.spec.foreach, str) else canonical_json(step.spec.foreach)
    if identity not in known:
        if isinstance(step.items, GlobUse):
            known[identity] = _matches(step.items, parameters, globs, faults)
        else:
            known[identity] = _listed(step, step.items, parameters, faults)
    return known[identity]


def _matches(use: GlobUse, parameters: Mapping[str, JSON], globs: Globs, faults: list[Fault]) -> Items:
    """The matches, with the part in which they differ as key: directories and extension that all have are left out."""
    pattern = _pattern(use, parameters)
    paths = globs.get(pattern, ())
    if not paths:
        faults.append(Fault(use.path, f"no file matches {pattern}"))
        return []
    fixed = _MAGIC.split(pattern, maxsplit=1)[0]
    if fixed == pattern:
        return list(zip(item_keys(paths), paths, strict=True))
    head = len(fixed) - len(basename(fixed))
    tail = _TAIL.search(pattern)[0]  # type: ignore[index]
    if "/" not in tail:
        tail = splitext(f"x{tail}")[1]
    parts = [path[head : len(path) - len(tail)] for path in paths]
    return list(zip(keys_of_parts(parts, paths), paths, strict=True))


def _listed(
    step: CompiledStep, source: Sequence[JSON] | ParameterUse, parameters: Mapping[str, JSON], faults: list[Fault]
) -> Items:
    path: tuple[PathPart, ...] = ("steps", step.index, "foreach")
    values: JSON = source
    if isinstance(source, ParameterUse):
        path = (PARAMETERS, *source.names)
        try:
            values = look_up(parameters, source.names)
        except NoValue:
            faults.append(Fault(path_text(path), f"has no value, but {source.path} needs one"))
            return []
    if not isinstance(values, list):
        message = f"must be a list, because {step.spec.name} runs once for each item; not {kind(values)}"
        faults.append(Fault(path_text(path), message))
        return []
    if len(values) > (most := limits().request_step_runs):
        message = f"has {len(values)} items; one run may have {most} step runs, the limit REQUEST_STEP_RUNS"
        faults.append(Fault(path_text(path), message))
        return []
    items, problem = with_keys(values, path)
    if problem is not None:
        faults.append(problem)
    return items
