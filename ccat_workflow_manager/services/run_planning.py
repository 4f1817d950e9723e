"""Turns a submission into a planned run, or into the faults of its request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.creation import Ancestry, NewRun
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.queries.owners import project_of_run
from ccat_workflow_manager.db.reuse import ancestors_of
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.definition.compiled import CompiledPipeline, compile_pipeline
from ccat_workflow_manager.definition.items import patterns_of
from ccat_workflow_manager.definition.planning import Plan, plan
from ccat_workflow_manager.definition.spec import all_files, canonical, parse_pipeline
from ccat_workflow_manager.errors import MAX_FAULTS, Conflict, Fault, Invalid, NotFound, RequestError
from ccat_workflow_manager.identity import Projects, no_project, sees
from ccat_workflow_manager.json_values import invalid, weight
from ccat_workflow_manager.limits import limits
from ccat_workflow_manager.services.catalogue import Catalogue, check_files, save_files, secret_faults
from ccat_workflow_manager.services.globs import Globs
from ccat_workflow_manager.services.run_request import RunRequest, RunSubmission


@dataclass(frozen=True, slots=True)
class _Target:
    """The definition that a run executes."""

    spec_id: UUID | None
    """None: an inline definition, not stored yet."""
    compiled: CompiledPipeline
    name: str
    version: int | None
    project: str
    priority: int


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that can be created: everything that takes long has been done, outside of a transaction."""

    submission: RunSubmission
    target: _Target
    parameters: Mapping[str, Any]
    plan: Plan
    default_backend: str
    ancestry: Ancestry | None = None

    @property
    def compiled(self) -> CompiledPipeline:
        return self.target.compiled

    @property
    def version(self) -> int | None:
        return self.target.version

    def new_run(self, store: PipelineStore, inline: dict[str, UUID]) -> NewRun:
        """The rows of the run. Stores an inline definition; `inline` has those that this transaction has stored."""
        target, request, compiled = self.target, self.submission.request, self.target.compiled
        spec_id = target.spec_id or inline.get(compiled.content_hash)
        if spec_id is None:
            save_files(store, compiled.spec)
            spec_id = store.save_inline(target.name, canonical(compiled.spec), compiled.content_hash)
            inline[compiled.content_hash] = spec_id
        return NewRun(
            run_id=self.submission.run_id,
            spec_id=spec_id,
            pipeline=target.name,
            pipeline_version=target.version,
            project=request.project or target.project,
            parameters=self.parameters,
            plan=self.plan,
            created_by=self.submission.actor,
            default_backend=compiled.default_backend or self.default_backend,
            labels=request.labels,
            priority=request.priority if request.priority is not None else target.priority,
            backend=request.backend,
            idempotency_key=self.submission.key,
            request_hash=self.submission.digest,
            change=self.submission.change,
            ancestry=self.ancestry,
            trace=None if self.submission.trace is None else str(self.submission.trace),
        )


class RunPlanner:
    """Plans the runs of one request, outside of any transaction. It looks up each pipeline once."""

    def __init__(
        self,
        database: Database,
        catalogue: Catalogue,
        globs: Globs,
        *,
        default_backend: str,
        known_backends: Set[str],
        projects: Projects = None,
    ) -> None:
        """`projects` are those in which its caller may submit."""
        self._projects = projects
        self._database = database
        self._catalogue = catalogue
        self._globs = globs
        self._matches: dict[tuple[str, str], Sequence[str]] = {}
        self._default_backend = default_backend
        self._known_backends = known_backends
        self._targets: dict[object, _Target] = {}
        self._step_runs = 0
        self._weight = 0

    def plan(self, submission: RunSubmission, path: str = "") -> PlannedRun:
        """The run. Raises RequestError with the paths of its faults below `path`."""
        request = submission.request
        try:
            self._check(request)
            target = self._target(request)
            self._check_project(request.project or target.project, "project" if request.project else "spec.project")
            parameters = target.compiled.validate_parameters(request.parameters)
            self._weigh(parameters)
            planned = self._planned(request, target, parameters)
            self._count(planned)
            self._check_inputs(submission, target.compiled, planned, parameters)
            self._check_secrets(request, target.compiled)
            ancestry = None if request.reuse is None else self._ancestry(request.reuse)
            return PlannedRun(submission, target, parameters, planned, self._default_backend, ancestry)
        except RequestError as error:
            if not path:
                raise
            raise type(error)(faults=_below(path, error.faults or [Fault("", error.message)])) from None

    def plan_all(self, submissions: Sequence[RunSubmission]) -> list[PlannedRun]:
        """The runs of one request. Raises RequestError with the faults of all of them."""
        planned: list[PlannedRun] = []
        errors: list[RequestError] = []
        for index, submission in enumerate(submissions):
            try:
                planned.append(self.plan(submission, f"runs[{index}]"))
            except RequestError as error:
                errors.append(error)
                if len(errors) > MAX_FAULTS:
                    break
        if errors:
            kinds = {type(error) for error in errors}
            together = kinds.pop() if len(kinds) == 1 else Invalid
            raise together(faults=[fault for error in errors for fault in error.faults])
        return planned

    def _planned(self, request: RunRequest, target: _Target, parameters: Mapping[str, Any]) -> Plan:
        """The plan. Faults of the definition get a path below the field of the request that names or holds it."""
        try:
            globs = self._expanded(request, target.compiled, parameters)
            return plan(target.compiled, parameters, request.project or target.project, globs)
        except Invalid as error:
            definition = "pipeline" if request.spec is None else "spec"
            own = [fault for fault in error.faults if fault.path.startswith("steps")]
            others = [fault for fault in error.faults if not fault.path.startswith("steps")]
            raise Invalid(faults=[*_below(definition, own), *others]) from None

    def _expanded(
        self, request: RunRequest, compiled: CompiledPipeline, parameters: Mapping[str, Any]
    ) -> dict[str, Sequence[str]]:
        """The matches of the patterns of `foreach`. The runs of one request look at each pattern once."""
        faults: list[Fault] = []
        patterns = patterns_of(compiled, parameters, faults)
        if faults:
            raise invalid(faults)
        found: dict[str, Sequence[str]] = {}
        for pattern, use in patterns.items():
            own = next((step.backend for step in compiled.steps if step.items == use), None)
            backend = own or request.backend or compiled.default_backend or self._default_backend
            if (pattern, backend) not in self._matches:
                self._matches[pattern, backend] = self._globs.matches(pattern, use.path, backend)
            found[pattern] = self._matches[pattern, backend]
        return found

    def _ancestry(self, run_id: UUID) -> Ancestry:
        """The completed step runs of the run that is reused."""
        with self._database.read() as unit:
            project, found = project_of_run(unit, run_id), ancestors_of(unit, run_id)
        if found is None or project is None or not sees(self._projects, project):
            message = f"there is no run {run_id}"
            raise NotFound(message, [Fault("reuse", message)])
        completed = {name: (each.id, True) for name, each in found.items() if each.completed}
        return Ancestry(reuse=run_id, step_runs=completed)

    def _weigh(self, parameters: Mapping[str, Any]) -> None:
        self._weight += weight(dict(parameters))
        if self._weight > (most := limits().json_values):
            message = (
                f"hold with their defaults more than {most} values in this request; send less, or raise JSON_VALUES"
            )
            raise Invalid(faults=[Fault("parameters", message)])

    def _count(self, planned: Plan) -> None:
        self._step_runs += max(planned.total, len(planned.steps))
        if self._step_runs > (most := limits().request_step_runs):
            message = f"makes more than {most} step runs in this request; send several, or raise REQUEST_STEP_RUNS"
            raise Invalid(faults=[Fault("", message)])

    def _check_inputs(
        self, submission: RunSubmission, compiled: CompiledPipeline, planned: Plan, parameters: Mapping[str, Any]
    ) -> None:
        """Refuse what no worker would take as an input. Whether it exists, a worker sees."""
        definition = "pipeline" if submission.request.spec is None else "spec"
        faults = self._catalogue.input_faults(compiled, planned, parameters, str(submission.run_id))
        if found := _below(definition, islice(faults, MAX_FAULTS + 1)):
            raise invalid(found)

    def _check_secrets(self, request: RunRequest, compiled: CompiledPipeline) -> None:
        faults = secret_faults(compiled, request.backend, self._default_backend)
        if found := _below("pipeline" if request.spec is None else "spec", faults):
            raise invalid(found)

    def _check(self, request: RunRequest) -> None:
        faults: list[Fault] = []
        if (request.pipeline is None) == (request.spec is None):
            faults.append(Fault("pipeline", "give either the name of a pipeline or a `spec`"))
        if request.version is not None and request.spec is not None:
            faults.append(Fault("version", "cannot be given with a `spec`: only registered pipelines have versions"))
        if request.backend is not None:
            faults += self._backend_faults("backend", request.backend)
        if faults:
            raise Invalid(faults=faults)

    def _backend_faults(self, path: str, backend: str) -> list[Fault]:
        if backend in self._known_backends:
            return []
        return [Fault(path, f"there is no backend {backend!r}; known: {', '.join(sorted(self._known_backends))}")]

    def _target(self, request: RunRequest) -> _Target:
        inline = None if request.spec is None else _inline(request.spec)
        key = (request.pipeline, request.version) if inline is None else inline.content_hash
        target = self._targets.get(key)
        if target is None:
            target = self._registered_target(request) if inline is None else self._inline_target(inline)
            self._targets[key] = target
        return target

    def _registered_target(self, request: RunRequest) -> _Target:
        name = request.pipeline or ""
        try:
            with self._database.read() as unit:
                found = PipelineStore(unit).head(name, request.version)
                compiled = self._catalogue.compiled(unit, found.id)
        except NotFound as error:
            path = "pipeline" if request.version is None else "version"
            raise NotFound(error.message, [Fault(path, error.message)]) from None
        if not sees(self._projects, found.project):
            message = f"there is no pipeline {name}" + (f" version {request.version}" if request.version else "")
            raise NotFound(message, [Fault("pipeline" if request.version is None else "version", message)])
        if not found.enabled:
            raise Conflict(faults=[Fault("pipeline", f"the pipeline {name} is disabled")])
        self._check_backends(compiled, "pipeline.")
        return _Target(found.id, compiled, name, found.version, found.project, found.priority)

    def _inline_target(self, compiled: CompiledPipeline) -> _Target:
        self._check_backends(compiled, "spec.")
        try:
            self._catalogue.check_inputs(compiled)
        except Invalid as error:
            raise Invalid(faults=_below("spec", error.faults)) from None
        if any(True for _ in all_files(compiled.spec)):
            try:
                with self._database.read() as unit:
                    check_files(PipelineStore(unit), compiled.spec)
            except Invalid as error:
                raise Invalid(faults=_below("spec", error.faults)) from None
        return _Target(None, compiled, compiled.spec.name, None, compiled.spec.project, 0)

    def _check_project(self, project: str, path: str) -> None:
        if not sees(self._projects, project):
            raise NotFound(faults=[Fault(path, no_project(project, self._projects))])

    def _check_backends(self, compiled: CompiledPipeline, path: str) -> None:
        named = [(f"steps[{step.index}].backend", step.backend) for step in compiled.steps]
        named.append(("defaults.backend", compiled.default_backend))
        faults = [fault for name, backend in named if backend for fault in self._backend_faults(path + name, backend)]
        if faults:
            raise Invalid(faults=faults)


def _inline(spec: object) -> CompiledPipeline:
    try:
        return compile_pipeline(parse_pipeline(spec))
    except Invalid as error:
        raise Invalid(faults=_below("spec", error.faults)) from None


def _below(path: str, faults: Iterable[Fault]) -> list[Fault]:
    return [Fault(f"{path}.{fault.path}" if fault.path else path, fault.message) for fault in faults]
