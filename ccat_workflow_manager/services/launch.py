"""Launching: claim, stage, submit, record. If a worker dies in between, the next one finds the job by its name."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.full_places import FullPlaceStore, place_of
from ccat_workflow_manager.db.products import UpstreamReader
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.db.work_items import load_items
from ccat_workflow_manager.definition.compiled import CompiledPipeline
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.errors import (
    AttemptError,
    BackendError,
    BackendRejected,
    CancelRequested,
    Invalid,
    JobDeferred,
    LeaseLost,
    ServiceUnavailable,
)
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event, Status
from ccat_workflow_manager.lifecycle.verdict import cancelled, is_sought
from ccat_workflow_manager.services import traces
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.inputs import InputFinder
from ccat_workflow_manager.services.job_requests import build_request
from ccat_workflow_manager.services.leases import Leases
from ccat_workflow_manager.services.reuse import NotReused, Reuser
from ccat_workflow_manager.services.status_updater import JudgedItem, StatusUpdater, after
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)

_MOST_DELAYS = 6
"""The delay between two tries of a step run that a limit keeps out grows up to this many times the shortest one."""

_SHORT_JOB_SECONDS = 0.03
"""How long a launch waits for the ends of its jobs. One that ends meanwhile is recorded once, with its results."""
_COVERED = 0.9
"""The share of the longest submission that fresh leases must last. A backend that is close by is quicker."""

_Request = tuple[WorkItem, JobRequest]


@dataclass(slots=True)
class _Claim:
    """The step runs of one claim, and what becomes of each."""

    backend: BackendHandle
    items: Sequence[WorkItem]
    leases: Leases
    compiled: dict[UUID, CompiledPipeline]
    upstream: UpstreamReader
    inputs: InputFinder
    after_problem: bool
    """The backend could not be used the last time."""
    has_full_places: bool
    requests: list[_Request] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Places that are full, and why."""
    taken: set[str] = field(default_factory=set)
    """Places that have taken a job."""
    provenance: dict[UUID, Mapping[str, Any]] = field(default_factory=dict)
    """What the attempts run, as far as their definitions do not say it."""
    not_reused: dict[UUID, str] = field(default_factory=dict)
    """Why step runs that were to take over products are launched."""
    problem: BackendError | None = None
    """Why the backend cannot be used. The rest of the claim is then released."""

    def job_ids(self) -> dict[UUID, str]:
        """The jobs that were submitted or found, by their step runs."""
        facts = {each.step_run_id: each.facts for each in self.transitions}
        return {key: each.job_id for key, each in facts.items() if each is not None and each.job_id}


class Launcher:
    """Brings ready step runs to their backend."""

    def __init__(self, context: WorkerContext, updater: StatusUpdater) -> None:
        self._context = context
        self._updater = updater
        self._reuser = Reuser(context)

    def launch(self, backend_name: str, limit: int) -> int:
        """Claim up to `limit` step runs and submit them. Returns how many were claimed."""
        backend = self._context.usable_backend(backend_name)
        claim = self._claim(backend, limit) if backend is not None else None
        if claim is None:
            return 0
        for item in claim.items:
            traces.queued(item)
            with traces.span("launch", item):
                self._prepare(item, claim)
        self._submit(claim)
        self._record(claim)
        self._record_places(claim)
        return len(claim.items)

    # --- claim -------------------------------------------------------------------------------------------------------

    def _claim(self, backend: BackendHandle, limit: int) -> _Claim | None:
        """None if the backend is not to be tried now, or if nothing is ready."""
        context = self._context
        with context.database.begin("commit.claim") as unit:
            store = RunStore(unit, context.breakers)
            items = store.claim(backend.name, context.worker, limit, context.lease_seconds)
            spec_ids = {item.run.spec_id for item in items}
            compiled = {spec_id: context.catalogue.compiled(unit, spec_id) for spec_id in spec_ids}
        state = store.launch_state
        if not items or state is None:
            return None
        upstream = UpstreamReader(context.database, items, context.upstream_max_products)
        return _Claim(
            backend,
            items,
            Leases(context, items),
            compiled,
            upstream,
            InputFinder(context.database, context.host, items),
            after_problem=state.retry_later is not None,
            has_full_places=state.place_due is not None,
        )

    # --- prepare -----------------------------------------------------------------------------------------------------

    def _prepare(self, item: WorkItem, claim: _Claim) -> None:
        """Adopt the job of an earlier, interrupted try, or stage a new one."""
        if claim.problem is not None:
            claim.transitions.append(self._unusable(item, claim.problem))
            return
        may_have_a_job = item.claims > 1
        try:
            claim.leases.check(item)
            if may_have_a_job:
                job_id = claim.backend.find(item.job_name, point="backend.find")
                may_have_a_job = False
                if job_id is not None:
                    claim.transitions.append(self._submitted(item, job_id, "found again by its name"))
                    return
            self._reuse_or_stage(item, claim)
        except LeaseLost:
            _log_lost(item)
        except CancelRequested:
            # Where an earlier try may have left a job, the canceller looks for it before the step run is CANCELLED.
            claim.transitions.append(
                self._released(item, "to be cancelled", 0) if may_have_a_job else self._cancelled(item)
            )
        except JobDeferred as error:
            claim.transitions.append(self._deferred(item, claim, error))
        except AttemptError as error:
            claim.transitions.append(self._failed(item, claim, error.reason, error.message))
        except Invalid as error:
            claim.transitions.append(self._failed(item, claim, FailureReason.REJECTED, error.message))
        except BackendError as error:
            claim.problem = error
            claim.transitions.append(self._unusable(item, error))
        except ServiceUnavailable:
            raise
        except Exception as error:  # one step run of many: it fails, the next goes on
            log.exception("%s/%s could not be launched", item.step, item.key)
            claim.transitions.append(self._failed(item, claim, FailureReason.INTERNAL_ERROR, repr(error)))

    def _reuse_or_stage(self, item: WorkItem, claim: _Claim) -> None:
        transition = self._take_over(item, claim) if item.reuse else None
        if transition is not None:
            claim.transitions.append(transition)
        else:
            claim.requests.append((item, self._request(item, claim)))

    def _request(self, item: WorkItem, claim: _Claim) -> JobRequest:
        """Raises JobDeferred before anything is staged if the backend knows already that the job would have to wait."""
        deferred = claim.backend.full(item.resources, item.priority)
        if deferred is not None:
            raise deferred
        compiled, executes = claim.compiled[item.run.spec_id], claim.backend.capabilities.executes
        progress = claim.leases.progress_for(item)
        request = build_request(
            item,
            compiled,
            claim.upstream.of(item) if executes else (),
            claim.inputs.of(item, compiled, progress) if executes else (),
            backend=claim.backend,
            host=self._context.host,
            read_files=self._context.read_files,
            progress=progress,
        )
        if (provenance := self._reuser.provenance(item, compiled, claim.backend, progress)) is not None:
            claim.provenance[item.step_run_id] = provenance
        return request

    def _take_over(self, item: WorkItem, claim: _Claim) -> Transition | None:
        """Take over the products of an earlier run. Returns None if the step run is to be launched."""
        progress, compiled = claim.leases.progress_for(item), claim.compiled[item.run.spec_id]
        inputs = claim.inputs.of(item, compiled, progress) if claim.backend.capabilities.executes else ()
        try:
            return self._reuser.take_over(item, compiled, claim.upstream.of(item), inputs, claim.backend, progress)
        except NotReused as error:
            claim.not_reused[item.step_run_id] = f"not reused: {error}"
            return None

    # --- submit ------------------------------------------------------------------------------------------------------

    def _submit(self, claim: _Claim) -> None:
        claim.inputs.save()
        if claim.backend.submits_each:
            self._submit_each(claim)
            return
        slow = claim.backend.submit_seconds
        fresh = claim.backend.awaits_ends and claim.leases.seconds_left > _COVERED * slow
        if claim.problem is None and (claim.leases.due or (slow and not fresh)):
            claim.leases.renew(silent_seconds=slow)
        requests = self._take_wanted(claim, claim.requests)
        began = time.time()
        results = claim.backend.submit_many([request for _, request in requests])
        for (item, _), result in zip(requests, results, strict=True):
            self._take_result(claim, item, result, began)

    def _submit_each(self, claim: _Claim) -> None:
        """Submit job by job. The batch may take longer than a lease, so leases and records do not wait for its end."""
        slow, recorded = claim.backend.submit_seconds, time.monotonic()
        for each in claim.requests:
            if claim.problem is None and (slow or claim.leases.due):
                claim.leases.renew(silent_seconds=slow)
            for item, request in self._take_wanted(claim, [each]):
                began = time.time()
                [result] = claim.backend.submit_many([request])
                self._take_result(claim, item, result, began)
            if time.monotonic() - recorded > self._context.lease_seconds / 4:
                self._record(claim)
                recorded = time.monotonic()

    def _take_wanted(self, claim: _Claim, requests: Sequence[_Request]) -> list[_Request]:
        """Those whose step runs are still to be launched. If the backend cannot be used, the others are released."""
        if claim.problem is not None:
            claim.transitions += [self._unusable(item, claim.problem) for item, _ in requests]
            return []
        return [(item, request) for item, request in requests if self._is_wanted(item, claim)]

    def _take_result(self, claim: _Claim, item: WorkItem, result: str | BackendError, began: float) -> None:
        traces.submitted(item, began)
        if isinstance(result, str):
            claim.taken.add(place_of(item.resources))
            why, ran = claim.not_reused.get(item.step_run_id), claim.provenance.get(item.step_run_id)
            claim.transitions.append(self._submitted(item, result, why, ran))
        elif isinstance(result, BackendRejected):
            claim.transitions.append(self._failed(item, claim, result.reason, result.message))
        elif isinstance(result, JobDeferred):
            claim.transitions.append(self._deferred(item, claim, result))
        else:
            claim.problem = result
            claim.transitions.append(self._unusable(item, result))

    def _is_wanted(self, item: WorkItem, claim: _Claim) -> bool:
        """Whether, after the renewal of the leases, the step run is still this worker's and still to be launched."""
        try:
            claim.leases.check(item)
        except LeaseLost:
            _log_lost(item)
            return False
        except CancelRequested:
            claim.transitions.append(self._cancelled(item))
            return False
        return True

    # --- record ------------------------------------------------------------------------------------------------------

    def _record(self, claim: _Claim) -> None:
        """Apply the transitions that are not yet applied, then poll once.

        A job may have been reported as ended before its id was stored.
        """
        backend, context = claim.backend, self._context
        jobs = claim.job_ids()
        submitted = [
            replace(item, status=Status.SUBMITTED, job_id=jobs[item.step_run_id], waiting_for=None)
            for item in claim.items
            if item.step_run_id in jobs
        ]
        judged = self._judged(backend, submitted)
        # The results of short jobs are in place by now, so their launch, end and results are one transition.
        collected = self._updater.collect_at_once(judged, claim.leases) if backend.capabilities.executes else {}
        result = self._updater.apply(backend, judged, claim.transitions, collected, point="commit.launched")
        claim.transitions = []
        refused = result.applied.refused
        for step_run_id, why in refused.items():
            log.info("launch of %s not recorded: %s", step_run_id, why)
        if claim.problem is not None:
            context.record_problem(backend.name, claim.problem)
        elif claim.after_problem:
            context.record_recovery(backend.name)
        if backend.capabilities.executes:
            self._stop_late_jobs(backend, [item for item in submitted if item.step_run_id in refused])
        self._updater.finish(result)
        if backend.capabilities.notifies:
            verdicts = {item.step_run_id: verdict for item, verdict in judged}
            applied = set(result.applied.applied)
            launched = [
                after(item, verdicts.get(item.step_run_id)) for item in submitted if item.step_run_id in applied
            ]
            if live := [item for item in launched if item is not None]:
                self._updater.update(backend, live)

    def _judged(self, backend: BackendHandle, submitted: Sequence[WorkItem]) -> Sequence[JudgedItem]:
        """The verdicts on jobs that may have ended by now: those that run nothing, and short ones."""
        if not submitted or (backend.capabilities.executes and not backend.awaits_ends):
            return ()
        if backend.awaits_ends:
            backend.await_ends([item.job_id for item in submitted if item.job_id], _SHORT_JOB_SECONDS)
        return self._updater.fetch_verdicts(backend, submitted) or ()

    def _record_places(self, claim: _Claim) -> None:
        """Step runs of a place that is full are not claimed any more, but for probes."""
        if not claim.refused and not claim.has_full_places:
            return
        context = self._context
        with context.database.begin("commit.full") as unit:
            store = FullPlaceStore(unit, claim.backend.name)
            store.record(claim.refused, claim.taken, context.retry_backend_seconds, _MOST_DELAYS)
        if claim.taken:
            context.doorbell.ring(Bell.LAUNCH, claim.backend.name)

    def _stop_late_jobs(self, backend: BackendHandle, late: Sequence[WorkItem]) -> None:
        """Stop the jobs that could not be recorded and that no other worker will look for.

        While this worker was silent, their step runs may have been cancelled or given another attempt. If they are
        still in the same attempt, the worker that has them now finds the job by its name.
        """
        if not late:
            return
        with self._context.database.read() as unit:
            now = {item.step_run_id: item for item in load_items(unit, [item.step_run_id for item in late])}
        orphans = [item.job_id for item in late if item.job_id and not is_sought(item, now.get(item.step_run_id))]
        if not orphans:
            return
        log.warning("stopping %d jobs that were submitted too late: %s", len(orphans), ", ".join(orphans[:10]))
        try:
            backend.cancel_many(orphans, point="backend.undo")
        except BackendError as error:
            log.error("stop these jobs by hand, they belong to no attempt: %s: %s", ", ".join(orphans), error.message)

    # --- transitions -------------------------------------------------------------------------------------------------

    def _submitted(
        self, item: WorkItem, job_id: str, text: str | None = None, provenance: Mapping[str, Any] | None = None
    ) -> Transition:
        event = TransitionEvent(Event.JOB_SUBMITTED, self._context.worker, text=text)
        return Transition(item.step_run_id, [event], item.token, Facts(job_id=job_id, provenance=provenance))

    def _unusable(self, item: WorkItem, error: BackendError) -> Transition:
        text = f"{item.backend} cannot be used: {error.message}"
        return self._released(item, text, self._context.retry_backend_seconds)

    def _deferred(self, item: WorkItem, claim: _Claim, error: JobDeferred) -> Transition:
        """The step run waits longer each time, so that it does not long take the turn of those behind it."""
        if error.concerns_all_alike:
            claim.refused[place_of(item.resources)] = error.message
        delay = self._context.retry_backend_seconds * min(item.claims, _MOST_DELAYS)
        return self._released(item, error.message, delay)

    def _released(self, item: WorkItem, text: str, delay_seconds: float) -> Transition:
        event = TransitionEvent(Event.RELEASED, self._context.worker, text=text, delay_seconds=delay_seconds)
        return Transition(item.step_run_id, [event], item.token)

    def _cancelled(self, item: WorkItem) -> Transition:
        self._context.host.remove_secrets(item)
        return Transition(item.step_run_id, [cancelled(self._context.worker)], item.token)

    def _failed(self, item: WorkItem, claim: _Claim, reason: FailureReason, text: str) -> Transition:
        self._context.host.remove_secrets(item)
        policy = claim.compiled[item.run.spec_id].step(item.step).retry
        return self._context.failure(item, policy, reason, text)


def _log_lost(item: WorkItem) -> None:
    log.info("%s/%s was taken over by another worker", item.step, item.key)
