"""From a request for a run to everything that is to be written for it, or to every fault of the request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.creation import NewRun
from ccat_workflow_manager.db.ids import new_id
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.definition.compiled import CompiledPipeline, compile_pipeline
from ccat_workflow_manager.definition.planning import Plan, plan
from ccat_workflow_manager.definition.spec import canonical, parse_pipeline
from ccat_workflow_manager.errors import Conflict, Fault, Invalid, NotFound, RequestError
from ccat_workflow_manager.json_values import path_text, text_problem
from ccat_workflow_manager.services.catalogue import Catalogue

PRIORITIES = range(-1000, 1001)
_MOST_LABELS = 50
_VERSIONS = range(1, 2**31)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run as it is asked for: a registered pipeline by name, or an inline definition."""

    pipeline: str | None = None
    version: int | None = None
    spec: object | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    backend: str | None = None

    def digest(self) -> str:
        """Equal for equal requests: what makes an Idempotency-Key safe to repeat."""
        content = {name: getattr(self, name) for name in self.__slots__}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RunSubmission:
    """A request with who made it, and under which idempotency key."""

    request: RunRequest
    actor: str
    key: str | None = None
    run_id: UUID = field(default_factory=new_id, compare=False)
    """Of the run that it will be. It is known before the first try, so that another try finds what that has made."""
    together: str | None = None
    """One of many under one key: the digest of all of them."""

    @property
    def digest(self) -> str | None:
        return None if self.key is None else self.together or self.request.digest()

    def made_before(self, known: Mapping[str, tuple[UUID, str]]) -> UUID | None:
        """The run that the same key and request made; Conflict if the key stands for another request."""
        if self.key is None or self.key not in known:
            return None
        run_id, digest = known[self.key]
        if digest != self.digest:
            raise Conflict(f"the Idempotency-Key {self.key!r} was used for another request")
        return run_id


def submissions_of_bulk(requests: Sequence[RunRequest], actor: str, key: str | None) -> list[RunSubmission]:
    """What is asked for in one call: the first has the key itself, and nobody can give the keys of the others."""
    if key is None:
        return [RunSubmission(request, actor) for request in requests]
    together = hashlib.sha256("".join(request.digest() for request in requests).encode()).hexdigest()
    return [
        RunSubmission(request, actor, f"{key}\x1f{index}" if index else key, together=together)
        for index, request in enumerate(requests)
    ]


@dataclass(frozen=True, slots=True)
class _Target:
    """What a run is a run of."""

    spec_id: UUID
    compiled: CompiledPipeline
    name: str
    version: int | None
    priority: int


class RunPlanner:
    """Plans runs inside one transaction, and looks each pipeline up only once."""

    def __init__(
        self,
        unit: UnitOfWork,
        catalogue: Catalogue,
        *,
        default_backend: str,
        known_backends: Callable[[], Iterable[str]],
    ) -> None:
        self._store = PipelineStore(unit)
        self._unit = unit
        self._catalogue = catalogue
        self._default_backend = default_backend
        self._known_backends = known_backends
        self._targets: dict[object, _Target] = {}

    def plan(self, wish: RunSubmission, path: str = "") -> NewRun:
        """What is to be written. Raises RequestError; its faults are told with `path` in front."""
        request = wish.request
        try:
            self._check(request)
            target = self._target(request)
            parameters = target.compiled.validate_parameters(request.parameters)
            return NewRun(
                run_id=wish.run_id,
                spec_id=target.spec_id,
                pipeline=target.name,
                pipeline_version=target.version,
                parameters=parameters,
                plan=_planned(target.compiled, parameters, "pipeline" if request.spec is None else "spec"),
                created_by=wish.actor,
                default_backend=target.compiled.default_backend or self._default_backend,
                labels=request.labels,
                priority=request.priority if request.priority is not None else target.priority,
                backend=request.backend,
                idempotency_key=wish.key,
                request_hash=wish.digest,
            )
        except RequestError as error:
            if not path:
                raise
            raise type(error)(faults=_below(path, error.faults)) from None

    def _check(self, request: RunRequest) -> None:
        faults: list[Fault] = []
        if (request.pipeline is None) == (request.spec is None):
            faults.append(Fault("pipeline", "name a pipeline, or give a `spec` instead (one of the two)"))
        if request.version is not None:
            if request.spec is not None:
                faults.append(Fault("version", "belongs to a pipeline by name; an inline spec has none"))
            elif request.version not in _VERSIONS:
                faults.append(Fault("version", "is not a number that a version can have; the first is 1"))
        if request.priority is not None and request.priority not in PRIORITIES:
            allowed = f"{PRIORITIES.start} to {PRIORITIES.stop - 1}"
            faults.append(Fault("priority", f"is {request.priority}; allowed are {allowed}"))
        if request.backend is not None:
            faults += self._backend_faults("backend", request.backend)
        faults += _label_faults(request.labels)
        if faults:
            raise Invalid(faults=faults)

    def _backend_faults(self, path: str, backend: str) -> list[Fault]:
        known = sorted(self._known_backends())
        return [] if backend in known else [Fault(path, f"there is no backend {backend!r}; known: {', '.join(known)}")]

    def _target(self, request: RunRequest) -> _Target:
        inline = None if request.spec is None else _inline(request.spec)
        key = (request.pipeline, request.version) if inline is None else inline.content_hash
        target = self._targets.get(key)
        if target is None:
            target = self._registered(request) if inline is None else self._kept(inline)
            self._targets[key] = target
        return target

    def _registered(self, request: RunRequest) -> _Target:
        name = request.pipeline or ""
        try:
            found = self._store.head(name, request.version)
        except NotFound as error:
            place = "pipeline" if request.version is None else "version"
            raise NotFound(error.message, [Fault(place, error.message)]) from None
        if not found.enabled:
            raise Conflict(faults=[Fault("pipeline", f"the pipeline {name} is disabled")])
        compiled = self._catalogue.compiled(self._unit, found.id)
        self._check_backends(compiled, "pipeline.")
        return _Target(found.id, compiled, name, found.version, found.priority)

    def _kept(self, compiled: CompiledPipeline) -> _Target:
        self._check_backends(compiled, "spec.")
        spec = compiled.spec
        spec_id = self._store.save_inline(spec.name, canonical(spec), compiled.content_hash)
        return _Target(spec_id, compiled, spec.name, None, 0)

    def _check_backends(self, compiled: CompiledPipeline, path: str) -> None:
        named = [(f"steps[{step.index}].backend", step.backend) for step in compiled.steps]
        named.append(("defaults.backend", compiled.default_backend))
        faults = [fault for place, backend in named if backend for fault in self._backend_faults(path + place, backend)]
        if faults:
            raise Invalid(faults=faults)


def _inline(spec: object) -> CompiledPipeline:
    try:
        return compile_pipeline(parse_pipeline(spec))
    except Invalid as error:
        raise Invalid(faults=_below("spec", error.faults)) from None


def _planned(compiled: CompiledPipeline, parameters: Mapping[str, Any], definition: str) -> Plan:
    """The plan; what is wrong with the definition is said of the field of the request that brought it."""
    try:
        return plan(compiled, parameters)
    except Invalid as error:
        own = [fault for fault in error.faults if fault.path.startswith("steps")]
        others = [fault for fault in error.faults if not fault.path.startswith("steps")]
        raise Invalid(faults=[*_below(definition, own), *others]) from None


def _below(path: str, faults: Iterable[Fault]) -> list[Fault]:
    return [Fault(f"{path}.{fault.path}" if fault.path else path, fault.message) for fault in faults]


def _label_faults(labels: Mapping[str, str]) -> list[Fault]:
    faults = []
    for name, value in labels.items():
        at = path_text(["labels", name])
        if problem := text_problem(name) or text_problem(value):
            faults.append(Fault(at, problem))
        elif not 0 < len(name) <= 100 or len(value) > 500:
            faults.append(Fault(at, "names have 1 to 100 characters, values at most 500"))
        elif ":" in name:
            faults.append(Fault(at, "contains a colon, which divides name and value where labels are looked for"))
    if len(labels) > _MOST_LABELS:
        faults.append(Fault("labels", f"holds {len(labels)} labels; at most {_MOST_LABELS}"))
    return faults
