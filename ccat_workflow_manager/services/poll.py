"""Following: one status call for many jobs, and what their news mean."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db.fleet import FleetStore
from ccat_workflow_manager.db.reading import live_items, live_items_by_job
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.execution.exit_record import read_end
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Lease, RetryPolicy, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.lifecycle.verdict import Verdict, judge
from ccat_workflow_manager.services.asking import asking
from ccat_workflow_manager.services.breakers import withdraw
from ccat_workflow_manager.services.cleaning import forget
from ccat_workflow_manager.services.collect import Collector
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)

PAGE = 1000
_AT_ONCE = 100
"""Results that the poller collects itself; more are left to all workers."""
_LEASES = 2
"""How long a worker that asks for all jobs may be silent before another does so; to ask twice does no harm."""
_LONGEST_STEP = 1 / 3
"""How much of the grace of an unknown job may pass between two answers: while nobody could ask, nobody was silent."""
_MAY_FAIL = frozenset({JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN})
_NO_POLICY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class PollResult:
    """What one status call has told, judged."""

    backend_name: str
    backend: HPCBackend
    verdicts: Sequence[tuple[WorkItem, Verdict]]


@dataclass(frozen=True, slots=True)
class AppliedPoll:
    """PollResult that have been written down, and whose results are in this worker's hands now."""

    news: PollResult
    done: Applied
    in_hand: Collection[UUID]


class Poller:
    """Asks backends for the state of jobs."""

    def __init__(self, worker_context: WorkerContext, collector: Collector) -> None:
        self._context = worker_context
        self._collector = collector

    def follow_all(self, backend_name: str) -> None:
        """Ask for every live job of a backend, unless another worker is doing so."""
        patience = _LEASES * self._context.lease_seconds
        with self._context.database.begin("commit.take-follow") as unit:
            fleet = FleetStore(unit)
            mine = fleet.acquire_poll_lease(backend_name, patience)
            if mine:
                fleet.exclude_unpolled_time(backend_name, self._context.grace_seconds * _LONGEST_STEP)
        if not mine:
            return
        after: UUID | None = None
        answers = False
        try:
            while True:
                with self._context.database.read() as unit:
                    items = live_items(unit, backend_name, after, PAGE)
                answers = not items or self._look(backend_name, items)
                if not items or not answers:
                    break
                after = items[-1].step_run_id
                if len(items) == PAGE:
                    with self._context.database.begin("commit.go-on-following") as unit:
                        FleetStore(unit).extend_poll_lease(backend_name, patience)
        finally:
            with self._context.database.begin("commit.followed") as unit:
                FleetStore(unit).followed(backend_name, answers=answers and after is not None)

    def follow_items(self, backend_name: str, items: Sequence[WorkItem]) -> None:
        """Ask for the jobs of these step runs."""
        self._look(backend_name, items)

    def follow_jobs(self, backend_name: str, job_ids: Sequence[str]) -> None:
        """Ask for the jobs that the backend has sent notice of."""
        with self._context.database.read() as unit:
            items = live_items_by_job(unit, backend_name, job_ids)
        self._look(backend_name, items)

    def _look(self, backend_name: str, items: Sequence[WorkItem]) -> bool:
        """One status call for all of them; False if the backend could not be asked."""
        if not items:
            return True
        backend = self._context.usable(backend_name)
        if backend is None:
            return False
        news = self.ask(backend_name, backend, items)
        if news is None:
            return False
        with self._context.database.begin("commit.news") as unit:
            written = self.write(unit, news)
        self.finish(written)
        return True

    def ask(self, backend_name: str, backend: HPCBackend, items: Sequence[WorkItem]) -> PollResult | None:
        """What is new about the jobs of these step runs, by one status call; None if the backend could not be asked."""
        try:
            job_ids = [item.job_id for item in items if item.job_id is not None]
            with asking(backend_name):
                infos = failpoints.around("backend.status", lambda: backend.get_statuses(job_ids))
                said = [(item, infos[item.job_id]) for item in items if item.job_id is not None]
        except BackendError as error:
            # No news is neither good nor bad news: the step runs stay as they are, and everybody can read why.
            self._context.note_problem(backend_name, error)
            return None
        told = [(item, self._complete(item, backend, info)) for item, info in said]
        policies = self._context.policies([item for item, info in told if info.status in _MAY_FAIL])
        verdicts = [
            (
                item,
                judge(
                    item,
                    info,
                    policies.get(item.step_run_id, _NO_POLICY),
                    actor=backend_name,
                    grace_seconds=self._context.grace_seconds,
                    jitter=self._context.jitter(),
                ),
            )
            for item, info in told
        ]
        return PollResult(backend_name, backend, verdicts)

    def _complete(self, item: WorkItem, backend: HPCBackend, info: HPCJobInfo) -> HPCJobInfo:
        """Add what the exit record and the container runtime know about an end."""
        if not info.finished or not backend.capabilities.executes:
            return info
        return read_end(info, self._context.site.dirs(item), item.job_name, self._context.site.runtime_of(backend))

    def write(self, unit: UnitOfWork, news: PollResult, launched: Sequence[Transition] = ()) -> AppliedPoll:
        """Write it down, on top of what has been `launched`: a job just submitted may have started or ended already."""
        executes = news.backend.capabilities.executes
        ending = [item for item, verdict in news.verdicts if _succeeds(verdict)]
        mine = {item.step_run_id for item in ending[:_AT_ONCE]} if executes else set()
        lease = Lease(self._context.worker, self._context.lease_seconds)
        transitions = {transition.step_run_id: transition for transition in launched}
        quiet = []
        for item, verdict in news.verdicts:
            before = transitions.get(item.step_run_id)
            notes: Sequence[TransitionEvent] = verdict.events
            if _succeeds(verdict) and not executes:
                notes = [
                    *notes,
                    TransitionEvent(Event.RESULTS_COLLECTED, self._context.worker, text="nothing to collect"),
                ]
            if before is not None:
                transitions[item.step_run_id] = _continued(
                    before, notes, verdict, lease if item.step_run_id in mine else None
                )
            elif notes:
                holder = lease if item.step_run_id in mine else None
                transitions[item.step_run_id] = Transition(
                    item.step_run_id, notes, item.token, verdict.facts, holder, verdict.waiting_for
                )
            elif _is_news(item, verdict):
                quiet.append((item.step_run_id, item.token, verdict.waiting_for, verdict.unknown))
        store = RunStore(unit, self._context.breakers)
        done = store.apply(list(transitions.values()))
        store.note_waits(quiet)
        rest = [item.step_run_id for item in ending if item.step_run_id not in mine] if executes else []
        unit.after_commit(lambda: self._ring(news.backend_name, rest, done))
        return AppliedPoll(news, done, mine & set(done.applied))

    def finish(self, written: AppliedPoll) -> None:
        """What follows once it is written: jobs without results are forgotten, results in hand are collected."""
        news, done = written.news, written.done
        late = [item for item, _ in news.verdicts if item.step_run_id in done.refused]
        for item in late:
            log.debug("news about %s/%s came too late: %s", item.step, item.key, done.refused[item.step_run_id])
        _clean(news, done)
        if done.breaker_opened:
            withdraw(self._context.database, self._context.doorbell)
        # A job that was to be withdrawn and has succeeded before that is as good as any other.
        mine = [
            replace(item, cancel_requested=item.cancel_requested and not item.withdrawn)
            for item, _ in news.verdicts
            if item.step_run_id in written.in_hand
        ]
        self._collector.collect_items(news.backend_name, mine)

    def _ring(self, backend_name: str, rest: Sequence[UUID], done: Applied) -> None:
        if rest:
            self._context.doorbell.ring(Bell.COLLECT, backend_name, rest)
        self._context.doorbell.ring_all(Bell.LAUNCH, done.ready)


def _continued(
    launch: Transition, notes: Sequence[TransitionEvent], verdict: Verdict, lease: Lease | None
) -> Transition:
    """The launch of a job and its first status, as one transition."""
    facts = launch.facts
    if facts is not None and verdict.facts is not None:
        facts = replace(verdict.facts, job_id=facts.job_id)
    # A backend need not know at once what it has only just been given: that is no silence yet.
    waiting_for = None if verdict.unknown else verdict.waiting_for
    return replace(launch, notes=[*launch.notes, *notes], facts=facts, lease=lease, waiting_for=waiting_for)


def _clean(news: PollResult, done: Applied) -> None:
    """Let the backend forget jobs that ended without results; the others go when their results are collected.

    One of which nothing is known may come back: what its backend has noted about it is then needed to tell whose it is.
    """
    applied = set(done.applied)
    gone = [
        item.job_id
        for item, verdict in news.verdicts
        if verdict.events and item.step_run_id in applied and item.job_id
        and not verdict.unknown and (not _succeeds(verdict) and verdict.events[0].event is not Event.JOB_STARTED)
    ]  # fmt: skip
    forget(news.backend, gone)


def _succeeds(verdict: Verdict) -> bool:
    return bool(verdict.events) and verdict.events[-1].event is Event.JOB_SUCCEEDED


def _is_news(item: WorkItem, verdict: Verdict) -> bool:
    """Whether a step run that stays as it is has something new to say for itself."""
    return verdict.unknown or item.unknown_seconds is not None or verdict.waiting_for != item.waiting_for
