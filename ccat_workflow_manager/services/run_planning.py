"""Turns a submission into the rows of a new run, or into the faults of its request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.creation import NewRun
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.definition.compiled import CompiledPipeline, compile_pipeline
from ccat_workflow_manager.definition.planning import Plan, plan
from ccat_workflow_manager.definition.spec import canonical, parse_pipeline
from ccat_workflow_manager.errors import Conflict, Fault, Invalid, NotFound, RequestError
from ccat_workflow_manager.services.catalogue import Catalogue, save_files
from ccat_workflow_manager.services.run_request import RunRequest, RunSubmission


@dataclass(frozen=True, slots=True)
class _Target:
    """The definition that a run executes."""

    spec_id: UUID
    compiled: CompiledPipeline
    name: str
    version: int | None
    priority: int


class RunPlanner:
    """Plans runs inside one transaction. It looks up each pipeline once."""

    def __init__(
        self,
        unit: UnitOfWork,
        catalogue: Catalogue,
        *,
        default_backend: str,
        known_backends: Set[str],
    ) -> None:
        self._store = PipelineStore(unit)
        self._unit = unit
        self._catalogue = catalogue
        self._default_backend = default_backend
        self._known_backends = known_backends
        self._targets: dict[object, _Target] = {}

    def plan(self, submission: RunSubmission, path: str = "") -> NewRun:
        """The new run. Raises RequestError with the paths of its faults below `path`."""
        request = submission.request
        try:
            self._check(request)
            target = self._target(request)
            parameters = target.compiled.validate_parameters(request.parameters)
            return NewRun(
                run_id=submission.run_id,
                spec_id=target.spec_id,
                pipeline=target.name,
                pipeline_version=target.version,
                parameters=parameters,
                plan=_planned(target.compiled, parameters, "pipeline" if request.spec is None else "spec"),
                created_by=submission.actor,
                default_backend=target.compiled.default_backend or self._default_backend,
                labels=request.labels,
                priority=request.priority if request.priority is not None else target.priority,
                backend=request.backend,
                idempotency_key=submission.key,
                request_hash=submission.digest,
            )
        except RequestError as error:
            if not path:
                raise
            raise type(error)(faults=_below(path, error.faults)) from None

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
            found = self._store.head(name, request.version)
        except NotFound as error:
            path = "pipeline" if request.version is None else "version"
            raise NotFound(error.message, [Fault(path, error.message)]) from None
        if not found.enabled:
            raise Conflict(faults=[Fault("pipeline", f"the pipeline {name} is disabled")])
        compiled = self._catalogue.compiled(self._unit, found.id)
        self._check_backends(compiled, "pipeline.")
        return _Target(found.id, compiled, name, found.version, found.priority)

    def _inline_target(self, compiled: CompiledPipeline) -> _Target:
        self._check_backends(compiled, "spec.")
        spec = compiled.spec
        try:
            save_files(self._store, spec)
        except Invalid as error:
            raise Invalid(faults=_below("spec", error.faults)) from None
        spec_id = self._store.save_inline(spec.name, canonical(spec), compiled.content_hash)
        return _Target(spec_id, compiled, spec.name, None, 0)

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


def _planned(compiled: CompiledPipeline, parameters: Mapping[str, Any], definition: str) -> Plan:
    """The plan. Faults of the definition get a path below the field of the request that names or holds it."""
    try:
        return plan(compiled, parameters)
    except Invalid as error:
        own = [fault for fault in error.faults if fault.path.startswith("steps")]
        others = [fault for fault in error.faults if not fault.path.startswith("steps")]
        raise Invalid(faults=[*_below(definition, own), *others]) from None


def _below(path: str, faults: Iterable[Fault]) -> list[Fault]:
    return [Fault(f"{path}.{fault.path}" if fault.path else path, fault.message) for fault in faults]
