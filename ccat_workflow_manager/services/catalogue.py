"""Pipeline definitions: stores and compares versions, and caches their compiled form."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import yaml

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.overrides import OverrideStore, changes
from ccat_workflow_manager.db.pipelines import PipelineStore, StoredSpec
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.definition.compiled import CompiledPipeline, compile_pipeline
from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.definition.planning import Plan
from ccat_workflow_manager.definition.secrets import secrets_of
from ccat_workflow_manager.definition.spec import PipelineSpec, all_files, canonical, parse_pipeline, stored_pipeline
from ccat_workflow_manager.errors import Conflict, Fault, Invalid, NotFound
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.identity import Projects, no_project, sees
from ccat_workflow_manager.json_values import JSON, invalid, path_text, weight
from ccat_workflow_manager.lifecycle.models import RetryPolicy, WorkItem
from ccat_workflow_manager.lifecycle.overrides import NO_TERM, Changed, Term
from ccat_workflow_manager.services.holds import reason, require_future

_MOST_WEIGHT = 2_000_000
_MOST_SHOWN = 20_000
"""Weight of the definitions that are compared line by line, which takes a second."""


@dataclass(frozen=True, slots=True)
class PipelineChange:
    """The change that a definition makes, or would make."""

    name: str
    version: int
    changed: bool
    diff: str


class Catalogue:
    """The definitions of one deployment. Versions never change, so their compiled form is cached."""

    def __init__(self, database: Database, input_roots: InputRoots) -> None:
        self._database = database
        self._input_roots = input_roots
        self._compiled: BoundedCache[UUID, CompiledPipeline] = BoundedCache(_MOST_WEIGHT)

    def apply(
        self, definition: object, *, name: str | None = None, create_only: bool = False, projects: Projects = None
    ) -> PipelineChange:
        """Store a new version of a pipeline. Equal content changes nothing."""
        spec = parse_pipeline(definition)
        self._check_name(spec, name)
        _check_project(spec, projects)
        self._check(compile_pipeline(spec))
        content = canonical(spec)
        with self._database.begin("commit.pipeline") as unit:
            store = PipelineStore(unit)
            before = self._newest(store, spec.name)
            if (owner := store.project(spec.name)) is not None and not sees(projects, owner):
                raise Conflict(f"the name {spec.name} is in use; choose another one")
            check_files(store, spec)
            save_files(store, spec)
            audit.describe(
                target=f"pipelines/{spec.name}",
                project=spec.project,
                before=None if before is None else {"version": before.version, "project": owner},
                after={"content_hash": spec.content_hash, "project": spec.project},
            )
            stored, changed = store.save(spec.name, content, spec.content_hash, project=spec.project)
            if create_only and changed and stored.version != 1:
                raise Conflict(f"the pipeline {spec.name} exists with other content; use PUT to add a version")
        return PipelineChange(spec.name, stored.version or 0, changed, _diff(before, content if changed else None))

    def plan(self, definition: object, *, name: str | None = None, projects: Projects = None) -> PipelineChange:
        """Returns what `apply` would change."""
        spec = parse_pipeline(definition)
        self._check_name(spec, name)
        _check_project(spec, projects)
        self._check(compile_pipeline(spec))
        with self._database.read() as unit:
            store = PipelineStore(unit)
            before = self._newest(store, spec.name)
            check_files(store, spec)
        if before is not None and before.content_hash == spec.content_hash:
            return PipelineChange(spec.name, before.version or 0, False, "")
        return PipelineChange(
            spec.name, (before.version or 0) + 1 if before else 1, True, _diff(before, canonical(spec))
        )

    def change(
        self, name: str, *, enabled: bool | None = None, priority: int | None = None, term: Term = NO_TERM
    ) -> None:
        """Switch a pipeline on or off, or set the priority of its future runs."""
        given = {"enabled": enabled, "priority": priority}
        values = {key: value for key, value in given.items() if value is not None}
        with self._database.begin("commit.pipeline-switch") as unit:
            require_future(unit, term.until)
            store = PipelineStore(unit)
            head = store.lock_switches(name)
            before = {key: getattr(head, key) for key in values}
            store.change(name, enabled=enabled, priority=priority)
            wanted = changes(Changed.PIPELINE, name, head.project, f"the pipeline {name}", before, values)
            OverrideStore(unit).record(wanted, term)
            audit.describe(before=before, after={**values, **reason(term)})

    # --- compiled definitions --------------------------------------------------------------------------------------

    def compiled(self, unit: UnitOfWork, spec_id: UUID) -> CompiledPipeline:
        """The compiled definition with this id."""
        known = self._compiled.get(spec_id)
        if known is not None:
            return known
        compiled = compile_pipeline(stored_pipeline(PipelineStore(unit).by_id(spec_id).content))
        self._compiled.put(spec_id, compiled, compiled.weight)
        return compiled

    def policies(self, unit: UnitOfWork, items: Sequence[WorkItem]) -> dict[UUID, RetryPolicy]:
        """The retry policy of each step run."""
        return {item.step_run_id: self.compiled(unit, item.run.spec_id).step(item.step).retry for item in items}

    def _check(self, compiled: CompiledPipeline) -> None:
        """Raises Invalid for what no run could use."""
        self.check_inputs(compiled)
        if faults := list(secret_faults(compiled)):
            raise invalid(faults)

    def check_inputs(self, compiled: CompiledPipeline) -> None:
        """Raises Invalid if an input can only lie where none may come from."""
        if faults := list(self._input_roots.faults(compiled)):
            raise invalid(faults)

    def input_faults(
        self, compiled: CompiledPipeline, planned: Plan, parameters: Mapping[str, JSON], run_id: str
    ) -> Iterator[Fault]:
        """The inputs of a run that are not allowed."""
        for step in planned.steps:
            entries = compiled.steps[step.position].inputs
            by_item = any("${item}" in f"{each.source}{each.to}" for _, each in entries)
            for step_run in step.step_runs[: None if by_item else 1] if entries else ():
                yield from self._input_roots.faults_of(entries, parameters, step_run.item, run_id, step.name)

    @staticmethod
    def _check_name(spec: PipelineSpec, name: str | None) -> None:
        if name is not None and name != spec.name:
            raise Invalid(faults=[Fault("name", f"must be {name!r} as in the URL, not {spec.name!r}")])

    @staticmethod
    def _newest(store: PipelineStore, name: str) -> StoredSpec | None:
        try:
            return store.newest(name)
        except NotFound:
            return None


def secret_faults(compiled: CompiledPipeline, chosen: str | None = None, default: str = "") -> Iterator[Fault]:
    """Steps that use secrets and go to a backend whose jobs cannot have them.

    `chosen` is the backend of the run, `default` that of the deployment.
    """
    for step in compiled.steps:
        backend = step.backend or chosen or compiled.default_backend or default
        if backend and (names := secrets_of(step.spec.environment)) and not registry.gives_secrets(backend):
            message = f"uses a secret, which the backend {backend} cannot give to its jobs; choose another backend"
            yield from (Fault(path_text(["steps", step.index, "environment", name]), message) for name in names)


def _check_project(spec: PipelineSpec, projects: Projects) -> None:
    if not sees(projects, spec.project):
        raise NotFound(faults=[Fault("project", no_project(spec.project, projects))])


def save_files(store: PipelineStore, spec: PipelineSpec) -> None:
    """Store the files that the definition brings."""
    store.save_files({each.sha256: each.content for _, each in all_files(spec) if each.content is not None})


def check_files(store: PipelineStore, spec: PipelineSpec) -> None:
    """Raises Invalid for each file that is neither given nor stored."""
    given = {each.sha256 for _, each in all_files(spec) if each.content is not None}
    named = [(path, each.sha256) for path, each in all_files(spec) if each.sha256 not in given]
    if not named:
        return
    stored = store.stored_files({digest for _, digest in named})
    message = "is not stored here; give its content as {text: ...} or {base64: ...}"
    if faults := [Fault(path, message) for path, digest in named if digest not in stored]:
        raise invalid(faults)


def _diff(before: StoredSpec | None, content: object) -> str:
    if content is None:
        return ""
    if weight(content) + (weight(dict(before.content)) if before else 0) > _MOST_SHOWN:
        return "(the change is too large to be shown)\n"
    old = _as_yaml(before.content) if before else []
    name = f"version {before.version}" if before else "nothing"
    return "".join(difflib.unified_diff(old, _as_yaml(content), name, "new", n=3))


def _as_yaml(content: object) -> list[str]:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).splitlines(keepends=True)
