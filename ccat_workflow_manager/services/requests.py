"""Changes that users request: cancel, retry, pause and resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from dataclasses import asdict
from types import MappingProxyType
from uuid import UUID

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.deletions import DeletionStore
from ccat_workflow_manager.db.overrides import OverrideStore
from ccat_workflow_manager.db.queries.runs import existing_runs
from ccat_workflow_manager.db.queries.step_runs import runs_of_step_runs, step_runs_of
from ccat_workflow_manager.db.retries import lock_reopenable
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.db.work_items import load_items
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.errors import Conflict, Fault, Invalid, NotFound
from ccat_workflow_manager.lifecycle.models import Resources, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.overrides import NO_TERM, Changed, FieldChange, Term
from ccat_workflow_manager.lifecycle.states import RETRYABLE, Event
from ccat_workflow_manager.services.catalogue import Catalogue
from ccat_workflow_manager.services.holds import TIME_IS_OVER, reason, require_future
from ccat_workflow_manager.services.retry_request import AS_BEFORE, RetryRequest
from ccat_workflow_manager.services.run_request import MOST_LABELS, LabelChange

_BLOCKED = (
    "only a step run that failed, was cancelled or was skipped can be retried, after the steps before it have completed"
)
_NO_CHANGE: Mapping[UUID, TransitionEvent] = MappingProxyType({})


class Requests:
    """Changes runs and step runs of one deployment."""

    def __init__(
        self, database: Database, doorbell: Doorbell, catalogue: Catalogue, *, known_backends: Set[str]
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._catalogue = catalogue
        self._known_backends = known_backends

    def cancel(self, run_ids: Sequence[UUID], *, actor: str, path: str = "") -> None:
        """Request the cancellation of these runs. A step run is CANCELLED once its job is known to be gone."""
        self._require_runs(run_ids, path)

        def work(unit: UnitOfWork) -> None:
            store = RunStore(unit)
            rows = store.lock_cancellable(run_ids)
            runs = {row.run_id for row in rows.values()}
            store.request_cancel(rows, actor, runs)
            audit.describe(runs=runs)
            backends = {row.backend for row in rows.values()}
            unit.after_commit(lambda: self._ring_each(Bell.CANCEL, backends))

        self._database.transact("commit.cancel", work)

    def cancel_step_runs(self, step_run_ids: Sequence[UUID], *, actor: str) -> None:
        self._require_step_runs(step_run_ids)

        def work(unit: UnitOfWork) -> None:
            store = RunStore(unit)
            rows = {row.id: row for row in store.lock(step_run_ids).values() if row.status not in RETRYABLE}
            store.request_cancel(rows, actor)
            backends = {row.backend for row in rows.values()}
            unit.after_commit(lambda: self._ring_each(Bell.CANCEL, backends))

        self._database.transact("commit.cancel-step-runs", work)

    def retry(self, run_ids: Sequence[UUID], *, actor: str, path: str = "") -> dict[UUID, int]:
        """Retry what did not complete in these runs. Returns the number of retried step runs by run."""
        self._require_runs(run_ids, path)

        def work(unit: UnitOfWork) -> dict[UUID, int]:
            runs = lock_reopenable(unit, run_ids, None)
            _require_kept(unit, run_ids)
            counts = Counter(runs[step_run_id] for step_run_id in self._reopen(unit, list(runs), actor))
            audit.describe(runs=counts.keys())
            return dict(counts)

        return self._database.transact("commit.retry", work)

    def retry_step(self, run_id: UUID, request: RetryRequest, *, actor: str) -> int:
        """Retry the step runs of one step of a run, and those that were skipped only because of them.

        Returns how many are retried.
        """
        self._require_runs([run_id])
        with self._database.read() as unit:
            wanted = step_runs_of(unit, run_id, request.step or "", request.key)
        if not wanted:
            path = "step" if request.key is None else "key"
            raise NotFound(faults=[Fault(path, f"this run has no step run {request.step}/{request.key or '...'}")])
        audit.describe(runs=[run_id])
        return self.retry_step_runs(wanted, request, actor=actor)

    def retry_step_runs(self, step_run_ids: Sequence[UUID], request: RetryRequest = AS_BEFORE, *, actor: str) -> int:
        """Retry these step runs, and those that were skipped only because of them. Returns how many."""
        self._check_backend(request)
        runs = self._require_step_runs(step_run_ids)

        def work(unit: UnitOfWork) -> int:
            chosen = list(lock_reopenable(unit, sorted(set(runs.values())), set(step_run_ids)))
            _require_kept(unit, list(set(runs.values())))
            if not chosen:
                raise Conflict(_BLOCKED)
            changes = self._changes(unit, [each for each in chosen if each in runs], request, actor)
            audit.describe(after=request.model_dump(exclude_unset=True, exclude_none=True) or None)
            return len(self._reopen(unit, chosen, actor, changes))

        return self._database.transact("commit.retry-step-runs", work)

    def _check_backend(self, request: RetryRequest) -> None:
        if request.backend is not None and request.backend not in self._known_backends:
            known = ", ".join(sorted(self._known_backends))
            raise Invalid(faults=[Fault("backend", f"there is no backend {request.backend!r}; known: {known}")])

    def _changes(
        self, unit: UnitOfWork, step_run_ids: Sequence[UUID], request: RetryRequest, actor: str
    ) -> dict[UUID, TransitionEvent]:
        """The events of the step runs whose next attempts have other resources, or another text."""
        if request == AS_BEFORE:
            return {}
        require_future(unit, request.until)
        items = load_items(unit, step_run_ids)
        policies = self._catalogue.policies(unit, items)
        events, overrides = {}, list[FieldChange]()
        for item in items:
            wanted = request.resources_of(item, policies[item.step_run_id])
            overrides += _overrides(item, wanted, request.backend)
            events[item.step_run_id] = TransitionEvent(
                Event.RETRIED,
                actor,
                text=request.text(actor) + request.change_text(item, wanted),
                resources=wanted if wanted != item.resources else None,
                backend=request.backend,
            )
        OverrideStore(unit).record(overrides, Term(actor, request.reason, request.until))
        return events

    def _reopen(
        self, unit: UnitOfWork, chosen: Sequence[UUID], actor: str, changes: Mapping[UUID, TransitionEvent] = _NO_CHANGE
    ) -> list[UUID]:
        event = TransitionEvent(Event.RETRIED, actor, text=f"requested by {actor}")
        transitions = [Transition(step_run_id, [changes.get(step_run_id, event)]) for step_run_id in chosen]
        done: Applied = RunStore(unit).apply(transitions)
        unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, done.ready))
        return done.applied

    def pause(self, run_ids: Sequence[UUID], *, paused: bool, term: Term = NO_TERM) -> list[UUID]:
        """Pause or resume runs: step runs that are not launched yet are held back or released.

        Returns the runs that were changed. A finished run cannot be paused.
        """
        self._require_runs(run_ids)

        def work(unit: UnitOfWork) -> list[UUID]:
            require_future(unit, term.until)
            chosen, ready = RunStore(unit).pause(run_ids, paused=paused, term=term)
            audit.describe(runs=chosen, after={"paused": paused, **reason(term)})
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, ready))
            return chosen

        return self._database.transact("commit.pause", work)

    def end_pauses(self) -> None:
        """Resume the paused runs whose time is over."""
        with self._database.read() as unit:
            ended = RunStore(unit).ended_pauses()
        for run_id in ended:
            with audit.audited(audit.Change(TIME_IS_OVER, "resume_run", f"runs/{run_id}")):
                self.pause([run_id], paused=False)

    def set_priority(self, run_ids: Sequence[UUID], priority: int, term: Term = NO_TERM) -> list[UUID]:
        """Set the priority of runs that are not finished. Returns the runs that were changed."""
        self._require_runs(run_ids)

        def work(unit: UnitOfWork) -> list[UUID]:
            require_future(unit, term.until)
            changed = RunStore(unit).set_priority(run_ids, priority, term)
            audit.describe(runs=changed, after={"priority": priority, **reason(term)})
            return changed

        return self._database.transact("commit.priority", work)

    def set_labels(self, run_ids: Sequence[UUID], change: LabelChange) -> list[UUID]:
        """Set and remove labels of runs. Returns the runs that were changed."""
        self._require_runs(run_ids)

        def work(unit: UnitOfWork) -> list[UUID]:
            changed = RunStore(unit).set_labels(run_ids, change.labels, change.remove, MOST_LABELS)
            audit.describe(runs=changed, after=change.model_dump(exclude_unset=True))
            return changed

        return self._database.transact("commit.labels", work)

    def _require_runs(self, ids: Sequence[UUID], path: str = "") -> None:
        """Raises NotFound; `path` is the list of the request that holds the ids."""
        with self._database.read() as unit:
            found = existing_runs(unit, ids)
        require("run", ids, found, path)

    def _require_step_runs(self, ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Returns the run of each of these step runs. Raises NotFound."""
        with self._database.read() as unit:
            found = runs_of_step_runs(unit, ids)
        require("step run", ids, found)
        return found

    def _ring_each(self, bell: Bell, backends: Iterable[str]) -> None:
        for backend in sorted(backends):
            self._doorbell.ring(bell, backend)


def _overrides(item: WorkItem, wanted: Resources, backend: str | None) -> list[FieldChange]:
    """What the next attempts of a step run have that the last one had not."""
    changed = {
        "resources": (asdict(item.resources), asdict(wanted)),
        "backend": (item.backend, backend or item.backend),
    }
    title = f"the step run {item.step}/{item.key}"
    return [
        FieldChange(Changed.STEP_RUN, str(item.step_run_id), field, item.run.project, title, before, value)
        for field, (before, value) in changed.items()
        if before != value
    ]


def _require_kept(unit: UnitOfWork, run_ids: Sequence[UUID]) -> None:
    """Raises Conflict for a run that is being deleted. The step runs that a retry reopens must be locked."""
    if gone := sorted(DeletionStore(unit).being_deleted(run_ids)):
        raise Conflict(f"the run {gone[0]} is being deleted")


def require(what: str, ids: Sequence[UUID], found: Container[UUID], path: str = "") -> None:
    """Raises NotFound for the ids that were not found; `path` is the list of the request that holds them."""
    missing = [(index, each) for index, each in enumerate(ids) if each not in found]
    if missing:
        faults = [Fault(f"{path}[{index}]", f"there is no {what} {each}") for index, each in missing[:100] if path]
        raise NotFound(f"there is no {what} {', '.join(str(each) for _, each in missing[:5])}", faults)
