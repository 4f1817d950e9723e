"""Replays finished runs: each as a new run that names its ancestor. What was made before is never touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.creation import Ancestry
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.reuse import Ancestor, Cost, Source, ancestors_of, costs_of, count_products, sources
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import Conflict, Fault, Invalid, NotFound, RequestError
from ccat_workflow_manager.identity import Projects, sees
from ccat_workflow_manager.services.catalogue import Catalogue
from ccat_workflow_manager.services.replay_plan import Definition, Name, ReplayPlan, plan_replay, step_summaries
from ccat_workflow_manager.services.replay_request import ReplayOptions, merged
from ccat_workflow_manager.services.run_planning import PlannedRun, RunPlanner
from ccat_workflow_manager.services.run_request import KEY_END, RunRequest, RunSubmission
from ccat_workflow_manager.services.submit import Submitter

MOST = 5000
_AT_ONCE = 100
_MOST_KEYS = 10_000
"""All previews of one answer name at most so many keys."""


@dataclass(slots=True)
class _Planned:
    """A run that can be replayed."""

    source: Source
    run: PlannedRun
    plan: ReplayPlan
    shown: dict[str, Any]


@dataclass(slots=True)
class _Call:
    """One call: what its runs have in common."""

    options: ReplayOptions
    actor: str
    projects: Projects
    key: str | None
    planner: RunPlanner
    most_keys: int
    costs: dict[tuple[str, str], Mapping[str, Cost]] = field(default_factory=dict)
    """By pipeline and project."""

    def submission(self, source: Source, request: RunRequest) -> RunSubmission:
        key = None if self.key is None else f"{self.key}{KEY_END}replay{KEY_END}{source.id}"
        return RunSubmission(request, self.actor, key, bulk_digest=self.options.digest())


class Replays:
    """Replays the runs of one deployment."""

    def __init__(self, database: Database, catalogue: Catalogue, submitter: Submitter) -> None:
        self._database = database
        self._catalogue = catalogue
        self._submitter = submitter

    def replay(
        self, run_ids: Sequence[UUID], options: ReplayOptions, *, actor: str, projects: Projects, key: str | None
    ) -> list[dict[str, Any]]:
        """Replay these runs, or only say what that would do. Returns one answer for each.

        Raises RequestError if none can be replayed.
        """
        ids = list(dict.fromkeys(run_ids))
        planner, most_keys = self._submitter.planner(projects), max(1, _MOST_KEYS // max(1, len(ids)))
        call = _Call(options, actor, projects, key, planner, most_keys)
        answers: dict[UUID, dict[str, Any]] = {}
        errors: list[RequestError] = []
        left = iter(enumerate(ids))
        while chunk := list(islice(left, _AT_ONCE)):
            call.planner = self._submitter.planner(projects)
            planned = []
            for each in self._plan_all(chunk, call, errors, answers):
                answers[each.source.id] = each.shown
                planned.append(each)
            if not options.dry_run:
                self._create(planned, answers, errors)
        if errors and len(errors) == len(ids):
            raise _common(errors)
        return [answers[run_id] for run_id in ids]

    def _plan_all(
        self,
        chunk: Sequence[tuple[int, UUID]],
        call: _Call,
        errors: list[RequestError],
        answers: dict[UUID, dict[str, Any]],
    ) -> Iterator[_Planned]:
        with self._database.read() as unit:
            found = sources(unit, [run_id for _, run_id in chunk])
        for index, run_id in chunk:
            try:
                yield self._plan(run_id, found.get(run_id), call)
            except RequestError as error:
                errors.append(type(error)(faults=_at(f"ids[{index}]", error)))
                answers[run_id] = _refused(run_id, error)

    def _create(
        self, planned: Sequence[_Planned], answers: dict[UUID, dict[str, Any]], errors: list[RequestError]
    ) -> None:
        outcomes = self._submitter.create_planned([each.run for each in planned]) if planned else []
        for each, outcome in zip(planned, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                errors.append(outcome)
                answers[each.source.id] = _refused(each.source.id, outcome)
            else:
                each.shown |= {"outcome": "replayed", "new_run_id": str(outcome.run_id)}

    # --- one run -----------------------------------------------------------------------------------------------------

    def _plan(self, run_id: UUID, source: Source | None, call: _Call) -> _Planned:
        if source is None or not sees(call.projects, source.project):
            raise NotFound(f"there is no run {run_id}")
        if not source.finished:
            raise Conflict(f"the run {run_id} is {source.status}: wait until it is finished, or cancel it first")
        request = self._request(source, call.options)
        run = call.planner.plan(call.submission(source, request))
        with self._database.read() as unit:
            ancestors = ancestors_of(unit, run_id) or {}
            old = Definition(self._catalogue.compiled(unit, source.spec_id), source.parameters, str(run_id))
        new = Definition(run.compiled, run.parameters, str(run.submission.run_id))
        named = _named(call.options, run)
        plan = plan_replay(run.plan, new, old, ancestors, named=named, reuse=call.options.reuse)
        ancestry = Ancestry(
            replay_of=run_id,
            step_runs={
                (step.name, each.key): (ancestors[step.name, each.key].id, (step.name, each.key) not in plan.again)
                for step in run.plan.steps
                for each in step.step_runs
                if (step.name, each.key) in ancestors
            },
        )
        shown = self._shown(source, run, plan, ancestors, call)
        return _Planned(source, replace(run, ancestry=ancestry), plan, shown)

    def _request(self, source: Source, options: ReplayOptions) -> RunRequest:
        common: dict[str, Any] = {
            "parameters": merged(source.parameters, options.parameters),
            "priority": source.priority,
            "labels": dict(source.labels),
            "backend": source.backend,
            "project": source.project,
        }
        if source.pipeline_version is None:
            if options.version != "same":
                raise Invalid(faults=[Fault("version", "must be same: the run is of an inline definition")])
            with self._database.read() as unit:
                content = PipelineStore(unit).by_id(source.spec_id).content
            return RunRequest(spec=dict(content), **common)
        version = options.version
        number = version if isinstance(version, int) else source.pipeline_version if version == "same" else None
        return RunRequest(pipeline=source.pipeline, version=number, **common)

    def _shown(
        self,
        source: Source,
        run: PlannedRun,
        plan: ReplayPlan,
        ancestors: Mapping[Name, Ancestor],
        call: _Call,
    ) -> dict[str, Any]:
        superseded = [each.id for name, each in ancestors.items() if name in plan.again and each.completed]
        with self._database.read() as unit:
            if (of := (source.pipeline, source.project)) not in call.costs:
                call.costs[of] = costs_of(unit, *of)
            products = count_products(unit, superseded) if superseded else 0
        return {
            "run_id": str(source.id),
            "outcome": "would_be_replayed",
            "new_run_id": None,
            "reason": None,
            "pipeline": source.pipeline,
            "pipeline_version": run.version,
            "again": len(plan.again),
            "reused": len(plan.reused),
            "steps": step_summaries(plan, [step.name for step in run.plan.steps], call.most_keys),
            "cost": _cost(plan, call.costs[of]),
            "supersedes": {"run_id": str(source.id), "step_runs": len(superseded), "products": products},
        }


def _named(options: ReplayOptions, run: PlannedRun) -> set[Name]:
    """The step runs that the request wants to start again."""
    start = options.start
    if start is None:
        return set()
    steps = [step for step in run.plan.steps if start.step is None or step.name == start.step]
    if not steps:
        known = ", ".join(step.name for step in run.plan.steps)
        raise Invalid(faults=[Fault("from", f"names no step of this run ({start.step!r}); its steps: {known}")])
    found = {
        (step.name, each.key)
        for step in steps
        for each in step.step_runs
        if start.keys is None or each.key in start.keys
    }
    if start.keys is not None and (missing := set(start.keys) - {key for _, key in found}):
        raise Invalid(faults=[Fault("from.keys", f"no step run has the key {', '.join(sorted(missing)[:5])}")])
    return found


def _cost(plan: ReplayPlan, costs: Mapping[str, Cost]) -> dict[str, Any]:
    counts = Counter(step for step, _ in plan.again)
    known = {step: number for step, number in counts.items() if step in costs}
    return {
        "wall_time_seconds": sum(costs[step].seconds * number for step, number in known.items()),
        "cpu_hours": sum((costs[step].cpu_hours or 0) * number for step, number in known.items()),
        "without_history": sum(counts.values()) - sum(known.values()),
    }


def _refused(run_id: UUID, error: RequestError) -> dict[str, Any]:
    return {
        "run_id": str(run_id),
        "outcome": "refused",
        "new_run_id": None,
        "reason": error.message,
        "pipeline": None,
        "pipeline_version": None,
        "again": 0,
        "reused": 0,
        "steps": [],
        "cost": {"wall_time_seconds": 0, "cpu_hours": 0, "without_history": 0},
        "supersedes": None,
    }


def _at(path: str, error: RequestError) -> list[Fault]:
    faults = error.faults or [Fault("", error.message)]
    return [replace(fault, path=f"{path}: {fault.path}" if fault.path else path) for fault in faults]


def _common(errors: Sequence[RequestError]) -> RequestError:
    """The error of a call in which nothing could be replayed."""
    faults = [fault for error in errors for fault in error.faults or [Fault("", error.message)]]
    kinds = {type(error) for error in errors}
    return (kinds.pop() if len(kinds) == 1 else Conflict)(faults=faults)
