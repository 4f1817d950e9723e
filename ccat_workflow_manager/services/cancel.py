"""Cancelling: the wish is noted at once, CANCELLED is written when the backend says that the job is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db.fleet import FleetStore
from ccat_workflow_manager.db.reading import cancel_items
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.errors import BackendError, BackendUnavailable, JobDeferred
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Transition, WorkItem
from ccat_workflow_manager.lifecycle.states import LIVE, Status
from ccat_workflow_manager.lifecycle.verdict import cancelled, facts_of, unconfirmed
from ccat_workflow_manager.services.asking import asking
from ccat_workflow_manager.services.cleaning import forget
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)

_AT_ONCE = 500
_LOOK_SECONDS = (0.02, 0.5)
_AGAIN_SECONDS = (1.0, 30.0)
"""How soon a job that has not stopped is asked once more, and how seldom in the end."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A job that was to be stopped and has not been seen to be over."""

    next_at: float
    pause: float


@dataclass(slots=True)
class _Batch:
    """What is known of the jobs of some step runs."""

    items: Sequence[WorkItem]
    jobs: dict[UUID, str] = field(default_factory=dict)
    infos: dict[str, HPCJobInfo] = field(default_factory=dict)
    deferred: dict[UUID, str] = field(default_factory=dict)
    """Where it is not settled yet whether there is a job, and why."""
    unasked: set[UUID] = field(default_factory=set)
    trouble: BackendError | None = None

    def info(self, item: WorkItem) -> HPCJobInfo:
        return self.infos.get(self.jobs.get(item.step_run_id, ""), UNKNOWN)


class Canceller:
    """Stops jobs that somebody wants stopped, and says so when they have."""

    def __init__(
        self,
        worker_context: WorkerContext,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = worker_context
        self._pause = pause
        self._clock = clock
        self._asked: dict[str, dict[str, _Asked]] = {}
        """By backend and name of the job. Only this worker's: if another asks once more, that does no harm."""
        self._trouble: dict[str, str] = {}

    def cancel_wanted(self, backend_name: str) -> int:
        """Carry out the cancel requests for this backend that are in nobody's hands: how many were confirmed.

        A job that does not stop is asked again less and less often, and never keeps one behind it from being asked.
        """
        before = self._asked.get(backend_name, {})
        asked: dict[str, _Asked] = {}
        backend: HPCBackend | None = None
        after: UUID | None = None
        confirmed = 0
        while True:
            with self._context.database.read() as unit:
                items = cancel_items(unit, backend_name, after, _AT_ONCE)
            if not items:
                break
            after = items[-1].step_run_id
            now = self._clock()
            known = {item.job_name: before[item.job_name] for item in items if item.job_name in before}
            due = [item for item in items if item.job_name not in known or known[item.job_name].next_at <= now]
            asked |= known
            if not due:
                continue
            backend = backend or self._context.usable(backend_name)
            if backend is None:
                return confirmed
            batch = self._ask(backend_name, backend, due)
            done = self._write(backend_name, backend, batch, known)
            confirmed += len(done)
            for item in due:
                asked.pop(item.job_name, None)
                if item.step_run_id not in done:
                    asked[item.job_name] = self._next(known.get(item.job_name))
            if isinstance(batch.trouble, BackendUnavailable):
                asked = before | asked
                break
        self._asked[backend_name] = asked
        return confirmed

    def _next(self, last: _Asked | None) -> _Asked:
        shortest, longest = _AGAIN_SECONDS
        pause = shortest if last is None else min(2 * last.pause, longest)
        return _Asked(self._clock() + pause, pause)

    # --- act ---------------------------------------------------------------------------------------------------------

    def _ask(self, backend_name: str, backend: HPCBackend, items: Sequence[WorkItem]) -> _Batch:
        """Have every job stopped that there is for these, and look what becomes of them."""
        batch = _Batch(items)
        for item in items:
            self._find(backend_name, backend, item, batch)
        try:
            job_ids = sorted(set(batch.jobs.values()))
            with asking(backend_name):
                failpoints.around("backend.cancel", lambda: backend.cancel_many(job_ids))
                self._confirm(backend, job_ids, batch)
        except BackendError as error:
            batch.trouble = error
            batch.unasked |= {item.step_run_id for item in items if item.claims > 0} - batch.deferred.keys()
        return batch

    def _find(self, backend_name: str, backend: HPCBackend, item: WorkItem, batch: _Batch) -> None:
        """The job of this step run, if there is one; that it cannot be told keeps no other from being stopped."""
        job_id = item.job_id
        if job_id is None and item.claims > 0:
            if isinstance(batch.trouble, BackendUnavailable):
                batch.unasked.add(item.step_run_id)
                return
            try:
                with asking(backend_name):
                    job_id = failpoints.around("backend.find-to-cancel", partial(backend.find, item.job_name))
            except JobDeferred as error:
                batch.deferred[item.step_run_id] = error.message
            except BackendError as error:
                batch.trouble = error
                batch.unasked.add(item.step_run_id)
        if job_id is not None:
            batch.jobs[item.step_run_id] = job_id

    def _confirm(self, backend: HPCBackend, job_ids: Sequence[str], batch: _Batch) -> None:
        """Look until all of them are over or the time for that has passed."""
        deadline = time.monotonic() + self._context.cancel_confirm_seconds
        pause, longest = _LOOK_SECONDS
        open_ = list(job_ids)
        while open_:
            batch.infos |= failpoints.around("backend.confirm", partial(backend.get_statuses, open_))
            open_ = [job_id for job_id in open_ if not batch.infos[job_id].finished]
            if not open_ or time.monotonic() >= deadline:
                break
            self._pause(pause)
            pause = min(pause * 2, longest)

    # --- apply -------------------------------------------------------------------------------------------------------

    def _write(
        self, backend_name: str, backend: HPCBackend, batch: _Batch, known: Collection[str]
    ) -> set[UUID]:  # fmt: skip
        """CANCELLED where it is a fact, and for the others why not yet: which were cancelled."""
        if batch.trouble is not None:
            self._note_trouble(backend_name, batch, batch.trouble)
        transitions: list[Transition] = []
        waits: list[tuple[UUID, int, str | None, bool]] = []
        gone: dict[UUID, str] = {}
        for item in batch.items:
            each, job_id = item.step_run_id, batch.jobs.get(item.step_run_id)
            if each in batch.unasked:
                continue
            if each in batch.deferred:
                waits.append((each, item.token, batch.deferred[each], False))
            elif self._is_lost(item, batch, known):
                text = unconfirmed(backend_name, job_id, item.unknown_seconds or 0)
                facts = replace(facts_of(UNKNOWN), warnings=[text])
                transitions.append(Transition(each, [cancelled(backend_name, text)], item.token, facts))
            elif _is_over(item, batch):
                transitions.append(Transition(each, [cancelled(backend_name)], item.token, facts_of(batch.info(item))))
                if job_id is not None:
                    gone[each] = job_id
            elif job_id is not None:
                silent = batch.info(item).status is JobStatus.UNKNOWN and _is_counted(item, known)
                words = f"asked {backend_name} to stop the job; not confirmed yet"
                waits.append((each, item.token, words, silent))
        with self._context.database.begin("commit.cancelled") as unit:
            store = RunStore(unit)
            done = set(store.apply(transitions).applied)
            store.note_waits(waits)
            if batch.trouble is None and batch.jobs:
                FleetStore(unit).well(backend_name, self._trouble.get(backend_name))
        if batch.trouble is None:
            self._trouble.pop(backend_name, None)
        # One that is only taken as gone may come back: what its backend has noted about it is needed then.
        forget(backend, [job_id for each, job_id in gone.items() if each in done])
        return done

    def _note_trouble(self, backend_name: str, batch: _Batch, error: BackendError) -> None:
        words = f"{backend_name} could not be asked to stop the job; not confirmed yet: {error.message}"
        waits = [
            # For those that the poller looks after it is the poller that counts how long they have been unknown.
            (i.step_run_id, i.token, words, i.unknown_seconds is not None and i.status in LIVE)
            for i in batch.items
            if i.step_run_id in batch.unasked
        ]
        self._context.note_problem(backend_name, error, waits)
        self._trouble[backend_name] = error.message

    def _is_lost(self, item: WorkItem, batch: _Batch, known: Collection[str]) -> bool:
        """Whether nothing has been known of the job for the whole of the grace.

        What was given back is followed by nobody, so it is here that the grace ends for a job that stays unknown.
        """
        if item.status in LIVE or item.step_run_id not in batch.jobs or not _is_counted(item, known):
            return False
        silent = item.unknown_seconds if batch.info(item).status is JobStatus.UNKNOWN else None
        return silent is not None and silent >= self._context.grace_seconds


def _is_counted(item: WorkItem, known: Collection[str]) -> bool:
    """Whether silence about the job counts: it begins with the first answer, not while nobody was there to ask."""
    return item.status in LIVE or item.job_name in known


def _is_over(item: WorkItem, batch: _Batch) -> bool:
    """Whether CANCELLED is a fact. A job that completed first is left to the poller: it finished."""
    info = batch.info(item)
    if item.step_run_id not in batch.jobs:
        return item.status in (Status.PENDING, Status.COLLECTING_RESULTS)
    if item.status in LIVE:
        return info.finished and info.status is not JobStatus.COMPLETED
    return info.finished or item.status is Status.COLLECTING_RESULTS
