"""Cancelling: a request is recorded at once, CANCELLED only when the backend says that the job has ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from ccat_workflow_manager.db.work_items import cancel_items
from ccat_workflow_manager.errors import BackendError, BackendUnavailable, JobDeferred
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Transition, WorkItem
from ccat_workflow_manager.lifecycle.states import LIVE
from ccat_workflow_manager.lifecycle.verdict import cancelled, facts_of, stop_is_confirmed, unconfirmed
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)

PAGE = 500
RETRY_SECONDS = (1.0, 30.0)
"""The first and the longest pause before a job that has not stopped is asked again."""
_CONFIRM_SECONDS = (0.02, 0.5)
"""The first and the longest pause between two status calls that wait for jobs to end."""


@dataclass(frozen=True, slots=True)
class _Retry:
    """When a job that was asked to stop, and has not ended, is asked again."""

    at: float
    pause: float


Retries = Mapping[str, _Retry]
"""By job name."""


@dataclass(slots=True)
class _CancelOutcome:
    """What the backend has answered about the jobs of some step runs."""

    items: Sequence[WorkItem]
    jobs: dict[UUID, str] = field(default_factory=dict)
    infos: dict[str, HPCJobInfo] = field(default_factory=dict)
    deferred: dict[UUID, str] = field(default_factory=dict)
    """Step runs for which the backend cannot say yet whether there is a job, and why."""
    unasked: set[UUID] = field(default_factory=set)
    problem: BackendError | None = None

    def take(self, answers: Mapping[str, HPCJobInfo | BackendError]) -> list[str]:
        """Keep the answers of one status call. Returns the jobs that have not ended."""
        live = []
        for job_id, answer in answers.items():
            if isinstance(answer, BackendError):
                asked = [each for each, job in self.jobs.items() if job == job_id]
                self.deferred |= dict.fromkeys(asked, answer.message)
            else:
                self.infos[job_id] = answer
                if not answer.finished:
                    live.append(job_id)
        return live

    def info(self, item: WorkItem) -> HPCJobInfo:
        return self.infos.get(self.jobs.get(item.step_run_id, ""), UNKNOWN)


class Canceller:
    """Carries out cancel requests: stops jobs, and records that they have ended."""

    def __init__(self, context: WorkerContext, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._retries: dict[str, Retries] = {}
        """By backend. Other workers do not share them: to ask a job twice does no harm."""
        self._problems: dict[str, str] = {}
        """By backend: the problem that this canceller has recorded, and that it may clear."""

    def cancel_wanted(self, backend_name: str) -> int:
        """Carry out the cancel requests for this backend that no other worker has. Returns how many were confirmed.

        A job that does not stop is asked again less and less often, and never keeps a later one from being asked.
        """
        before = self._retries.get(backend_name, {})
        after: dict[str, _Retry] = {}
        backend: BackendHandle | None = None
        confirmed = 0
        for items in self._pages(backend_name):
            now = self._clock()
            known = {item.job_name: before[item.job_name] for item in items if item.job_name in before}
            due = [item for item in items if item.job_name not in known or known[item.job_name].at <= now]
            after |= known
            if not due:
                continue
            backend = backend or self._context.usable_backend(backend_name)
            if backend is None:
                return confirmed
            outcome = self._stop(backend, due)
            done = self._record(backend, outcome, known)
            confirmed += len(done)
            for item in due:
                after.pop(item.job_name, None)
                if item.step_run_id not in done:
                    after[item.job_name] = self._next(known.get(item.job_name))
            if isinstance(outcome.problem, BackendUnavailable):
                after = {**before, **after}
                break
        self._retries[backend_name] = after
        return confirmed

    def _pages(self, backend_name: str) -> Iterator[Sequence[WorkItem]]:
        last: UUID | None = None
        while True:
            with self._context.database.read() as unit:
                items = cancel_items(unit, backend_name, last, PAGE)
            if not items:
                return
            yield items
            last = items[-1].step_run_id

    def _next(self, before: _Retry | None) -> _Retry:
        shortest, longest = RETRY_SECONDS
        pause = shortest if before is None else min(2 * before.pause, longest)
        return _Retry(self._clock() + pause, pause)

    # --- stop --------------------------------------------------------------------------------------------------------

    def _stop(self, backend: BackendHandle, items: Sequence[WorkItem]) -> _CancelOutcome:
        """Ask the backend to stop the jobs of these step runs, and wait a while for their ends."""
        outcome = _CancelOutcome(items)
        for item in items:
            self._find(backend, item, outcome)
        try:
            job_ids = sorted(set(outcome.jobs.values()))
            backend.cancel_many(job_ids, point="backend.cancel")
            self._confirm(backend, job_ids, outcome)
        except BackendError as error:
            outcome.problem = error
            outcome.unasked |= {item.step_run_id for item in items if item.claims > 0} - outcome.deferred.keys()
        return outcome

    def _find(self, backend: BackendHandle, item: WorkItem, outcome: _CancelOutcome) -> None:
        """Find the job of this step run, if there is one. A failed search keeps no other job from being stopped."""
        job_id = item.job_id
        if job_id is None and item.claims > 0:
            if isinstance(outcome.problem, BackendUnavailable):
                outcome.unasked.add(item.step_run_id)
                return
            try:
                job_id = backend.find(item.job_name, point="backend.find-to-cancel")
            except JobDeferred as error:
                outcome.deferred[item.step_run_id] = error.message
            except BackendError as error:
                outcome.problem = error
                outcome.unasked.add(item.step_run_id)
        if job_id is not None:
            outcome.jobs[item.step_run_id] = job_id

    def _confirm(self, backend: BackendHandle, job_ids: Sequence[str], outcome: _CancelOutcome) -> None:
        """Ask for the states of the jobs until all have ended or the time for that is over."""
        deadline = time.monotonic() + self._context.cancel_confirm_seconds
        pause, longest = _CONFIRM_SECONDS
        live = list(job_ids)
        while live:
            live = outcome.take(backend.get_statuses(live, point="backend.confirm"))
            if not live or time.monotonic() >= deadline:
                break
            time.sleep(pause)
            pause = min(pause * 2, longest)

    # --- record ------------------------------------------------------------------------------------------------------

    def _record(self, backend: BackendHandle, outcome: _CancelOutcome, known: Collection[str]) -> set[UUID]:
        """Record CANCELLED where it is a fact, and for the others why it is not yet. Returns the cancelled ones."""
        if outcome.problem is not None:
            self._record_problem(backend.name, outcome, outcome.problem)
        transitions: list[Transition] = []
        waits: list[tuple[UUID, int, str | None, bool]] = []
        ended: dict[UUID, str] = {}
        for item in outcome.items:
            each, info, job_id = item.step_run_id, outcome.info(item), outcome.jobs.get(item.step_run_id)
            if each in outcome.unasked:
                continue
            if each in outcome.deferred:
                waits.append((each, item.token, outcome.deferred[each], False))
            elif self._is_lost(item, outcome, known):
                text = unconfirmed(backend.name, job_id, item.unknown_seconds or 0)
                facts = replace(facts_of(UNKNOWN), warnings=[text])
                transitions.append(Transition(each, [cancelled(backend.name, text)], item.token, facts))
            elif stop_is_confirmed(item.status, None if job_id is None else info):
                transitions.append(Transition(each, [cancelled(backend.name)], item.token, facts_of(info)))
                if job_id is not None:
                    ended[each] = job_id
            elif job_id is not None:
                text = f"asked {backend.name} to stop the job; not confirmed yet"
                waits.append((each, item.token, text, info.status is JobStatus.UNKNOWN and _counts(item, known)))
        if backend.capabilities.executes:
            self._remove_secrets(outcome.items, {transition.step_run_id for transition in transitions})
        done = set(self._context.writer(point="commit.cancelled").write(transitions, waits).applied)
        if outcome.problem is None and outcome.jobs:
            self._context.record_recovery(backend.name, self._problems.get(backend.name))
        if outcome.problem is None:
            self._problems.pop(backend.name, None)
        # A job taken as lost is not forgotten: it may reappear, and the backend must then know whose it is.
        backend.cleanup_many([job_id for each, job_id in ended.items() if each in done])
        return done

    def _remove_secrets(self, items: Sequence[WorkItem], cancelled_ids: Collection[UUID]) -> None:
        for item in items:
            if item.step_run_id in cancelled_ids:
                self._context.host.remove_secrets(item)

    def _record_problem(self, backend_name: str, outcome: _CancelOutcome, error: BackendError) -> None:
        text = f"{backend_name} could not be asked to stop the job; not confirmed yet: {error.message}"
        waits = [
            # For step runs that are polled, the poller counts how long their jobs have been unknown.
            (i.step_run_id, i.token, text, i.unknown_seconds is not None and i.status in LIVE)
            for i in outcome.items
            if i.step_run_id in outcome.unasked
        ]
        self._context.record_problem(backend_name, error, waits)
        self._problems[backend_name] = error.message

    def _is_lost(self, item: WorkItem, outcome: _CancelOutcome, known: Collection[str]) -> bool:
        """Whether the job has been unknown for the whole grace. For live step runs the poller decides that."""
        if item.status in LIVE or item.step_run_id not in outcome.jobs or not _counts(item, known):
            return False
        unknown = item.unknown_seconds if outcome.info(item).status is JobStatus.UNKNOWN else None
        return unknown is not None and unknown >= self._context.grace_seconds


def _counts(item: WorkItem, known: Collection[str]) -> bool:
    """Whether the grace of an unknown job runs: it begins with the first answer, not with the request."""
    return item.status in LIVE or item.job_name in known
