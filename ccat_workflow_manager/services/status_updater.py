"""From one status call to the database: what polling and launching do with the states of jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from uuid import UUID

from ccat_workflow_manager.db.runs import Applied
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.execution.exit_record import read_end, recorded_end
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Lease, RetryPolicy, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event, Status
from ccat_workflow_manager.lifecycle.verdict import Verdict, judge
from ccat_workflow_manager.services import traces
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.breakers import requeue_waiting
from ccat_workflow_manager.services.collect import Collector
from ccat_workflow_manager.services.leases import Leases
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)

_COLLECT_AT_MOST = 100
"""Results that this worker collects itself; more of them are left to all workers."""
_MAY_FAIL = frozenset({JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN})
_NO_POLICY = RetryPolicy()
_NOTHING: Mapping[UUID, Transition] = {}

JudgedItem = tuple[WorkItem, Verdict]


@dataclass(frozen=True, slots=True)
class AppliedVerdicts:
    """Verdicts that a transaction has applied, and what is left to do after its commit."""

    backend: BackendHandle
    judged: Sequence[JudgedItem]
    applied: Applied
    to_collect: Collection[UUID]
    """Step runs whose results this worker has a lease to collect."""
    began: float
    """When the verdicts were applied, in seconds since the epoch."""
    collected: Collection[UUID] = ()
    """Step runs whose results are collected."""


class StatusUpdater:
    """Asks a backend for the states of jobs, and applies what follows from them."""

    def __init__(self, context: WorkerContext, collector: Collector) -> None:
        self._context = context
        self._collector = collector

    def update(self, backend: BackendHandle, items: Sequence[WorkItem]) -> bool:
        """Bring these step runs up to date. Returns False if the backend could not be asked."""
        judged = self.fetch_verdicts(backend, items)
        if judged is None:
            return False
        self.finish(self.apply(backend, judged, point="commit.news"))
        return True

    def fetch_verdicts(self, backend: BackendHandle, items: Sequence[WorkItem]) -> Sequence[JudgedItem] | None:
        """The verdict on each job, by one status call. Returns None if the backend could not be asked."""
        jobs = [(item, item.job_id) for item in items if item.job_id is not None]
        try:
            answers = backend.get_statuses([job_id for _, job_id in jobs], point="backend.status")
        except BackendError as error:
            # An error says nothing about the jobs: the step runs stay as they are, and the API shows why.
            self._context.record_problem(backend.name, error)
            return None
        states, judged = list[tuple[WorkItem, HPCJobInfo]](), list[JudgedItem]()
        for item, job_id in jobs:
            answer = answers[job_id]
            if isinstance(answer, BackendError):
                judged.append((item, _undecided(item, answer.message)))
                continue
            try:
                states.append((item, self._complete(item, backend, answer)))
            except OSError as error:
                judged.append((item, _undecided(item, f"the files of the job cannot be read now: {error}")))
        policies = self._context.policies([item for item, info in states if info.status in _MAY_FAIL])
        return judged + [
            (
                item,
                judge(
                    item,
                    info,
                    policies.get(item.step_run_id, _NO_POLICY),
                    actor=backend.name,
                    grace_seconds=self._context.grace_seconds,
                    jitter=self._context.jitter(),
                ),
            )
            for item, info in states
        ]

    def _complete(self, item: WorkItem, backend: BackendHandle, info: HPCJobInfo) -> HPCJobInfo:
        """Add what the exit record and the container runtime say about the end of a job."""
        host = self._context.host
        if info.status is JobStatus.UNKNOWN and backend.capabilities.executes:
            info = recorded_end(host.dirs(item), item.job_name) or info
        if not info.finished or not backend.capabilities.executes:
            return info
        host.remove_secrets(item)
        try:
            return read_end(info, host.dirs(item), item.job_name, host.runtime_for(backend))
        except OSError:
            raise
        except Exception as error:  # one step run of many: its job may have written what is read here
            log.exception("the end of %s/%s cannot be read", item.step, item.key)
            return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.INTERNAL_ERROR, message=repr(error))

    def apply(
        self,
        backend: BackendHandle,
        judged: Sequence[JudgedItem],
        launched: Sequence[Transition] = (),
        collected: Mapping[UUID, Transition] = _NOTHING,
        *,
        point: str,
    ) -> AppliedVerdicts:
        """Apply the verdicts after the transitions of `launched`: a job may have ended right after its submission.

        `collected` are the transitions of results that were collected at once. `point` is the failpoint of the
        transaction.
        """
        executes, began = backend.capabilities.executes, time.time()
        succeeded = [item.step_run_id for item, verdict in judged if _succeeds(verdict)] if executes else []
        succeeded = [each for each in succeeded if each not in collected]
        mine = set(succeeded[:_COLLECT_AT_MOST])
        lease = Lease(self._context.worker, self._context.lease_seconds)
        transitions = {transition.step_run_id: transition for transition in launched}
        waits = []
        for item, verdict in judged:
            each = item.step_run_id
            launch = transitions.get(each)
            if launch is not None or verdict.events:
                transition = _transition(
                    item, verdict, self._events(verdict, executes), lease if each in mine else None, launch
                )
                transitions[each] = _with_results(transition, collected.get(each))
            elif _changes_wait(item, verdict):
                waits.append((each, item.token, verdict.waiting_for, verdict.unknown))
        applied = self._context.writer(point=point).write(list(transitions.values()), waits)
        self._ring(backend.name, succeeded[_COLLECT_AT_MOST:], applied)
        return AppliedVerdicts(backend, judged, applied, mine & set(applied.applied), began, collected.keys())

    def _events(self, verdict: Verdict, executes: bool) -> Sequence[TransitionEvent]:
        if executes or not _succeeds(verdict):
            return verdict.events
        collected = TransitionEvent(Event.RESULTS_COLLECTED, self._context.worker, text="nothing to collect")
        return [*verdict.events, collected]

    def finish(self, result: AppliedVerdicts) -> None:
        """After the commit: let the backend forget jobs without results, and collect the results of the others."""
        refused = result.applied.refused
        for item, verdict in result.judged:
            if item.step_run_id in refused:
                log.debug("verdict on %s/%s not recorded: %s", item.step, item.key, refused[item.step_run_id])
            elif verdict.unknown and verdict.events and result.backend.capabilities.executes:
                self._context.host.remove_secrets(item)
            elif verdict.events:
                traces.followed(item, verdict, result.began)
        result.backend.cleanup_many(_ended_without_results(result))
        if result.applied.breaker_opened:
            requeue_waiting(self._context.database, self._context.doorbell)
        # A job that succeeds before the cancel that its breaker requested counts like any other.
        mine = [
            replace(item, cancel_requested=item.cancel_requested and not item.requeued_by_breaker)
            for item, _ in result.judged
            if item.step_run_id in result.to_collect
        ]
        self._collector.collect_items(result.backend, mine)

    def collect_at_once(self, judged: Sequence[JudgedItem], leases: Leases) -> dict[UUID, Transition]:
        """The transitions of the results of the jobs that have succeeded, as far as that takes no time."""
        succeeded = [item for item, verdict in judged if _succeeds(verdict)][:_COLLECT_AT_MOST]
        return self._collector.collect_at_once(succeeded, leases)

    def _ring(self, backend_name: str, to_collect: Sequence[UUID], applied: Applied) -> None:
        if to_collect:
            self._context.doorbell.ring(Bell.COLLECT, backend_name, len(to_collect))
        self._context.doorbell.ring_all(Bell.LAUNCH, applied.ready)


def _transition(
    item: WorkItem,
    verdict: Verdict,
    events: Sequence[TransitionEvent],
    lease: Lease | None,
    launch: Transition | None,
) -> Transition:
    """What follows from a verdict, together with the launch of the same job if that is not recorded yet."""
    if launch is None:
        return Transition(item.step_run_id, events, item.token, verdict.facts, lease, verdict.waiting_for)
    facts = launch.facts
    if facts is not None and verdict.facts is not None:
        facts = replace(verdict.facts, job_id=facts.job_id, provenance=facts.provenance)
    # A backend need not know a job right after its submission: the grace does not begin yet.
    waiting_for = None if verdict.unknown else verdict.waiting_for
    return replace(launch, events=[*launch.events, *events], facts=facts, lease=lease, waiting_for=waiting_for)


def _ended_without_results(result: AppliedVerdicts) -> list[str]:
    """Jobs that the backend may forget now. Those with results follow when these are collected.

    A job taken as lost is not among them: it may reappear, and the backend must then know whose it is.
    """
    applied = set(result.applied.applied)
    return [
        item.job_id
        for item, verdict in result.judged
        if item.step_run_id in applied and item.job_id and _is_over(verdict)
        and (not _succeeds(verdict) or item.step_run_id in result.collected)
    ]  # fmt: skip


def _undecided(item: WorkItem, why: str) -> Verdict:
    """The verdict on a job that nothing can be said about now. The grace of an unknown job goes on."""
    waiting_for = item.waiting_for if item.cancel_requested else why
    return Verdict(waiting_for=waiting_for, unknown=item.unknown_seconds is not None)


def after(item: WorkItem, verdict: Verdict | None) -> WorkItem | None:
    """The step run once the verdict on its job is applied. Returns None if the job is over."""
    if verdict is None or verdict.unknown:
        return item
    if _is_over(verdict):
        return None
    status = Status.RUNNING if verdict.events else item.status
    return replace(item, status=status, waiting_for=verdict.waiting_for)


def _is_over(verdict: Verdict) -> bool:
    """Whether the backend has seen the end of the job."""
    return bool(verdict.events) and not verdict.unknown and verdict.events[-1].event is not Event.JOB_STARTED


def _with_results(transition: Transition, collected: Transition | None) -> Transition:
    """The transition of an ended job together with that of its results."""
    if collected is None:
        return transition
    facts = transition.facts
    if facts is not None and collected.facts is not None:
        known = {name: value for name, value in asdict(collected.facts).items() if value is not None}
        facts = replace(facts, **known)
    return replace(
        transition,
        events=[*transition.events, *collected.events],
        facts=facts,
        products=collected.products,
        caveats=collected.caveats,
    )


def _succeeds(verdict: Verdict) -> bool:
    return bool(verdict.events) and verdict.events[-1].event is Event.JOB_SUCCEEDED


def _changes_wait(item: WorkItem, verdict: Verdict) -> bool:
    """Whether the reason of a step run to wait, or the time its job has been unknown, has changed."""
    return verdict.unknown or item.unknown_seconds is not None or verdict.waiting_for != item.waiting_for
