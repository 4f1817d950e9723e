"""What a replay of a run starts again, and what it takes over: decided when it is created, so that a preview is exact.

A step run is started again if the request names it, if it did not complete, if its definition or its parameters are
different, or if a step run before it is started again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ccat_workflow_manager.db.reuse import Ancestor
from ccat_workflow_manager.definition.compiled import CompiledPipeline
from ccat_workflow_manager.definition.planning import Plan
from ccat_workflow_manager.errors import RequestError
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.services.fingerprint import differences, planned_parts
from ccat_workflow_manager.services.reuse import NO_DIGEST

Name = tuple[str, str]
"""The step and the key of a step run."""

NAMED = "the request names it"
NEW = "the run had no such step run"
NOT_COMPLETED = "it did not complete"
BEHIND = "a step run before it is started again"
NO_REUSE = "the request reuses nothing"


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition with the parameters of a run."""

    compiled: CompiledPipeline
    parameters: Mapping[str, JSON]
    run_id: str


@dataclass(slots=True)
class ReplayPlan:
    """The step runs of a replay."""

    again: dict[Name, str] = field(default_factory=dict)
    """Why each of these is started again."""
    reused: list[Name] = field(default_factory=list)


def plan_replay(
    plan: Plan,
    new: Definition,
    old: Definition,
    ancestors: Mapping[Name, Ancestor],
    *,
    named: set[Name],
    reuse: bool,
) -> ReplayPlan:
    """The replay with this plan. `named` are those that the request wants to start again."""
    found = ReplayPlan()
    for step in plan.steps:
        whole = [plan.steps[edge.upstream].name for edge in step.dependencies if edge.match == "all"]
        by_key = [plan.steps[edge.upstream].name for edge in step.dependencies if edge.match == "key"]
        started = {name for name, _ in found.again}
        for planned in step.step_runs:
            name = step.name, planned.key
            behind = any(each in started for each in whole) or any(
                (each, planned.key) in found.again for each in by_key
            )
            why = NO_REUSE if not reuse else NAMED if name in named else BEHIND if behind else None
            why = why or _own_reason(name, planned.item, new, old, ancestors.get(name))
            if why is None:
                found.reused.append(name)
            else:
                found.again[name] = why
    return found


def _own_reason(name: Name, item: JSON, new: Definition, old: Definition, ancestor: Ancestor | None) -> str | None:
    if ancestor is None:
        return NEW
    if not ancestor.completed:
        return NOT_COMPLETED
    if ancestor.without_digest:
        return NO_DIGEST
    try:
        now, before = (
            planned_parts(each.compiled, name[0], each.parameters, of, each.run_id)
            for each, of in ((new, item), (old, ancestor.item))
        )
    except RequestError as error:
        return error.message
    return "; ".join(each.text for each in differences(now, before)) or None


def step_summaries(plan: ReplayPlan, steps: Sequence[str], most_keys: int) -> list[dict[str, JSON]]:
    """By step: what is started again and why, and what is taken over."""
    found: list[dict[str, JSON]] = []
    for step in steps:
        again = {key: why for (name, key), why in plan.again.items() if name == step}
        reused = [key for name, key in plan.reused if name == step]
        found.append(
            {
                "step": step,
                "again": len(again),
                "reused": len(reused),
                "why": list(dict.fromkeys(again.values()))[:20],
                "again_keys": list(again)[:most_keys],
                "reused_keys": list(reused[:most_keys]),
            }
        )
    return found
