"""What people and other services ask for: runs, and changes to them. The API, the CLI and the dashboard come in here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from ccat_workflow_manager.core.errors import Conflict, Fault, Invalid, NotFound
from ccat_workflow_manager.core.models import EventNote, Move
from ccat_workflow_manager.core.compiled import CompiledPipeline, compile_pipeline
from ccat_workflow_manager.core.planning import plan
from ccat_workflow_manager.core.spec import canonical, parse_pipeline
from ccat_workflow_manager.core.states import RETRYABLE, Event
from ccat_workflow_manager.db.creation import NewRun, create_run_shown, create_runs
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.reopening import reopenable
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.services.catalogue import Catalogue

BULK_LIMIT = 5000
PRIORITIES = range(-1000, 1001)


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
class _Target:
    spec_id: UUID
    compiled: CompiledPipeline
    name: str
    version: int | None
    priority: int


class Requests:
    """The requests of one deployment."""

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        catalogue: Catalogue,
        *,
        default_backend: str,
        known_backends: Callable[[], Iterable[str]],
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._catalogue = catalogue
        self._default_backend = default_backend
        self._known_backends = known_backends

    # --- new runs --------------------------------------------------------------------------------------------------

    def create(self, request: RunRequest, *, actor: str, idempotency_key: str | None = None) -> tuple[UUID, bool]:
        """Create one run, or find the one that the same key and request made before: (its id, whether it is new)."""
        run_id, shown = self.create_shown(request, actor=actor, idempotency_key=idempotency_key)
        return run_id, shown is not None

    def create_shown(
        self, request: RunRequest, *, actor: str, idempotency_key: str | None = None
    ) -> tuple[UUID, str | None]:
        """The same: (its id, the run as JSON if it is new)."""
        digest = request.digest() if idempotency_key is not None else None
        with self._database.begin() as unit:
            if idempotency_key is not None:
                known = self._known(unit, idempotency_key, digest)
                if known is not None:
                    return known, None
            created = create_run_shown(unit, self._new_run(unit, request, actor, {}, "", idempotency_key, digest))
            run_id = created.run_ids[0]
            if run_id is None:
                known = self._known(unit, idempotency_key or "", digest)
                if known is None:
                    raise Conflict("a run with this Idempotency-Key was made and removed at the same moment; try again")
                return known, None
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, created.ready))
        return run_id, created.shown

    def create_many(self, requests: Sequence[RunRequest], *, actor: str) -> list[UUID]:
        """Create all runs or none."""
        if len(requests) > BULK_LIMIT:
            raise Invalid(faults=[Fault("runs", f"holds {len(requests)} runs; at most {BULK_LIMIT} at a time")])
        if not requests:
            raise Invalid(faults=[Fault("runs", "is empty")])
        targets: dict[Any, _Target] = {}
        with self._database.begin() as unit:
            new = [
                self._new_run(unit, request, actor, targets, f"runs[{index}].")
                for index, request in enumerate(requests)
            ]
            created = create_runs(unit, new)
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, created.ready))
        return [run_id for run_id in created.run_ids if run_id is not None]

    def _known(self, unit: UnitOfWork, key: str, digest: str | None) -> UUID | None:
        row = unit.execute("SELECT id, request_hash FROM runs WHERE idempotency_key = :key", {"key": key}).first()
        if row is None:
            return None
        if row[1] != digest:
            raise Conflict(f"the Idempotency-Key {key!r} was used for another request")
        known: UUID = row[0]
        return known

    def _new_run(
        self,
        unit: UnitOfWork,
        request: RunRequest,
        actor: str,
        targets: dict[Any, _Target],
        path: str = "",
        idempotency_key: str | None = None,
        digest: str | None = None,
    ) -> NewRun:
        try:
            self._check(request)
            key = (request.pipeline, request.version) if request.spec is None else id(request.spec)
            target = targets.get(key)
            if target is None:
                target = targets[key] = self._target(unit, request)
            parameters = target.compiled.validate_parameters(request.parameters)
            return NewRun(
                spec_id=target.spec_id,
                pipeline=target.name,
                pipeline_version=target.version,
                parameters=parameters,
                plan=plan(target.compiled, parameters),
                created_by=actor,
                default_backend=target.compiled.default_backend or self._default_backend,
                labels=request.labels,
                priority=request.priority if request.priority is not None else target.priority,
                backend=request.backend,
                idempotency_key=idempotency_key,
                request_hash=digest,
            )
        except Invalid as error:
            if not path:
                raise
            raise Invalid(faults=[Fault(path + fault.path, fault.message) for fault in error.faults]) from None

    def _check(self, request: RunRequest) -> None:
        faults: list[Fault] = []
        if (request.pipeline is None) == (request.spec is None):
            faults.append(Fault("pipeline", "name a pipeline, or give a `spec` instead (one of the two)"))
        if request.spec is not None and request.version is not None:
            faults.append(Fault("version", "belongs to a pipeline by name; an inline spec has none"))
        if request.priority is not None and request.priority not in PRIORITIES:
            faults.append(Fault("priority", f"is {request.priority}; allowed are -1000 to 1000"))
        if request.backend is not None:
            faults += self._backend_fault("backend", request.backend)
        for name, value in request.labels.items():
            if not name or len(name) > 100 or len(value) > 500 or "\0" in name + value:
                faults.append(Fault(f"labels.{name}", "names have 1 to 100 characters, values at most 500, and no NUL"))
        if len(request.labels) > 50:
            faults.append(Fault("labels", f"holds {len(request.labels)} labels; at most 50"))
        if faults:
            raise Invalid(faults=faults)

    def _backend_fault(self, path: str, backend: str) -> list[Fault]:
        known = sorted(self._known_backends())
        return [] if backend in known else [Fault(path, f"there is no backend {backend!r}; known: {', '.join(known)}")]

    def _target(self, unit: UnitOfWork, request: RunRequest) -> _Target:
        store = PipelineStore(unit)
        if request.spec is not None:
            compiled = self._inline(request.spec)
            spec = compiled.spec
            spec_id = store.save_inline(spec.name, canonical(spec), compiled.content_hash)
            target = _Target(spec_id, compiled, spec.name, None, 0)
        else:
            name = request.pipeline or ""
            stored = store.newest(name) if request.version is None else store.version(name, request.version)
            if not stored.enabled:
                raise Conflict(f"the pipeline {name} is disabled")
            target = _Target(stored.id, self._catalogue.keep(stored), name, stored.version, stored.priority)
        faults = [
            fault
            for index, step in enumerate(target.compiled.spec.steps)
            if step.backend is not None
            for fault in self._backend_fault(f"steps[{index}].backend", step.backend)
        ]
        if faults:
            raise Invalid(faults=faults)
        return target

    @staticmethod
    def _inline(spec: object) -> CompiledPipeline:
        try:
            return compile_pipeline(parse_pipeline(spec))
        except Invalid as error:
            raise Invalid(
                faults=[Fault(f"spec.{fault.path}" if fault.path else "spec", fault.message) for fault in error.faults]
            ) from None

    # --- changes to runs ---------------------------------------------------------------------------------------------

    def cancel(self, run_ids: Sequence[UUID], *, actor: str) -> None:
        """Ask for these runs to be stopped. What has a job is CANCELLED when the job is known to be gone."""
        self._must_exist("runs", run_ids)

        def work(unit: UnitOfWork) -> None:
            store = RunStore(unit)
            rows = store.lock_cancellable(run_ids)
            store.request_cancel(rows, actor)
            unit.execute(
                "UPDATE runs SET cancel_requested_at = now()"
                " WHERE id = ANY(:ids) AND cancel_requested_at IS NULL AND finished_at IS NULL",
                {"ids": list(run_ids)},
            )
            backends = {row.backend for row in rows.values()}
            unit.after_commit(lambda: self._ring_each(Bell.CANCEL, backends))

        self._database.transact(work)

    def cancel_step_runs(self, step_run_ids: Sequence[UUID], *, actor: str) -> None:
        self._must_exist("step_runs", step_run_ids)

        def work(unit: UnitOfWork) -> None:
            store = RunStore(unit)
            rows = {row.id: row for row in store.lock(step_run_ids).values() if row.status not in RETRYABLE}
            store.request_cancel(rows, actor)
            backends = {row.backend for row in rows.values()}
            unit.after_commit(lambda: self._ring_each(Bell.CANCEL, backends))

        self._database.transact(work)

    def retry(self, run_ids: Sequence[UUID], *, actor: str) -> int:
        """Start again whatever did not complete in these runs: how many step runs that is."""
        self._must_exist("runs", run_ids)

        def work(unit: UnitOfWork) -> int:
            return self._reopen(unit, reopenable(unit, run_ids, None), actor)

        return self._database.transact(work)

    def retry_step_runs(self, step_run_ids: Sequence[UUID], *, actor: str) -> int:
        """Start these again, and what was skipped only because of them."""
        found = self._must_exist("step_runs", step_run_ids)

        def work(unit: UnitOfWork) -> int:
            chosen = reopenable(unit, sorted(set(found.values())), set(step_run_ids))
            if not chosen:
                raise Conflict(
                    "a step run can be retried when it failed, was cancelled or was skipped, and nothing before it is left undone"
                )
            return self._reopen(unit, chosen, actor)

        return self._database.transact(work)

    def _reopen(self, unit: UnitOfWork, chosen: Sequence[UUID], actor: str) -> int:
        note = [EventNote(Event.RETRIED, actor, text=f"asked for by {actor}")]
        moves = [Move(step_run_id, note) for step_run_id in chosen]
        done: Applied = RunStore(unit).apply(moves)
        unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, done.ready))
        return len(done.applied)

    def pause(self, run_ids: Sequence[UUID], *, paused: bool) -> None:
        """Hold back (or let go) what has not been launched yet."""
        self._must_exist("runs", run_ids)
        with self._database.begin() as unit:
            unit.execute(
                "UPDATE runs SET paused = :paused WHERE id = ANY(:ids)", {"paused": paused, "ids": list(run_ids)}
            )
            rows = unit.execute(
                "UPDATE step_runs SET held = :paused WHERE id IN (SELECT id FROM step_runs WHERE run_id = ANY(:ids)"
                " ORDER BY id FOR NO KEY UPDATE) AND held <> :paused RETURNING id, backend, unmet, status",
                {"paused": paused, "ids": list(run_ids)},
            ).all()
            ready: dict[str, list[UUID]] = {}
            for step_run_id, backend, unmet, status in rows:
                if not paused and unmet == 0 and status == "PENDING":
                    ready.setdefault(backend, []).append(step_run_id)
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, ready))

    def _must_exist(self, table: str, ids: Sequence[UUID]) -> dict[UUID, UUID]:
        column = "id" if table == "runs" else "run_id"
        with self._database.read() as unit:
            rows = unit.execute(f"SELECT id, {column} FROM {table} WHERE id = ANY(:ids)", {"ids": list(ids)})
            found = {row[0]: row[1] for row in rows}
        missing = [str(each) for each in ids if each not in found]
        if missing:
            raise NotFound(f"there is no {table[:-1].replace('_', ' ')} {', '.join(missing[:5])}")
        return found

    def _ring_each(self, bell: Bell, backends: Iterable[str]) -> None:
        for backend in sorted(backends):
            self._doorbell.ring(bell, backend)
