"""Following: one status call for many jobs, and what their news mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from ccat_workflow_manager.core import faults
from ccat_workflow_manager.core.errors import BackendError
from ccat_workflow_manager.core.jobs import HPCJobInfo, JobStatus
from ccat_workflow_manager.core.judge import Verdict, judge
from ccat_workflow_manager.core.models import EventNote, Lease, Move, RetryPolicy, WorkItem
from ccat_workflow_manager.core.states import Event
from ccat_workflow_manager.db.fleet import FleetStore
from ccat_workflow_manager.db.reading import live_items, live_items_by_job
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.execution.exit_record import read_end
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.services.cleaning import forget
from ccat_workflow_manager.services.collect import Collector
from ccat_workflow_manager.services.workshop import Workshop

log = logging.getLogger(__name__)

PAGE = 1000
_AT_ONCE = 100
"""Results that the follower collects itself; more are left to all workers."""
_LEASES = 2
"""How long a worker that asks for all jobs may be silent before another does so; to ask twice does no harm."""
_MAY_FAIL = frozenset({JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN})
_NO_POLICY = RetryPolicy()


class Follower:
    """Asks backends for the state of jobs."""

    def __init__(self, workshop: Workshop, collector: Collector) -> None:
        self._workshop = workshop
        self._collector = collector

    def follow_all(self, backend_name: str) -> None:
        """Ask for every live job of a backend, unless another worker is doing so."""
        patience = _LEASES * self._workshop.lease_seconds
        with self._workshop.database.begin("commit.take-follow") as unit:
            mine = FleetStore(unit).take_follow(backend_name, patience)
        if not mine:
            return
        after: UUID | None = None
        answers = False
        try:
            while True:
                with self._workshop.database.read() as unit:
                    items = live_items(unit, backend_name, after, PAGE)
                answers = not items or self._look(backend_name, items)
                if not items or not answers:
                    break
                after = items[-1].step_run_id
                if len(items) == PAGE:
                    with self._workshop.database.begin("commit.go-on-following") as unit:
                        FleetStore(unit).go_on_following(backend_name, patience)
        finally:
            with self._workshop.database.begin("commit.followed") as unit:
                FleetStore(unit).followed(backend_name, answers=answers and after is not None)

    def follow_items(self, backend_name: str, items: Sequence[WorkItem]) -> None:
        """Ask for the jobs of these step runs."""
        self._look(backend_name, items)

    def follow_jobs(self, backend_name: str, job_ids: Sequence[str]) -> None:
        """Ask for the jobs that the backend has sent notice of."""
        with self._workshop.database.read() as unit:
            items = live_items_by_job(unit, backend_name, job_ids)
        self._look(backend_name, items)

    def _look(self, backend_name: str, items: Sequence[WorkItem]) -> bool:
        """One status call for all of them; False if the backend could not be asked."""
        if not items:
            return True
        backend = self._workshop.usable(backend_name)
        if backend is None:
            return False
        try:
            job_ids = [item.job_id for item in items if item.job_id is not None]
            infos = faults.doing("backend.status", lambda: backend.get_statuses(job_ids))
        except BackendError as error:
            # No news is neither good nor bad news: the step runs stay as they are, and everybody can read why.
            self._workshop.note_problem(backend_name, error)
            return False
        told = [(item, self._complete(item, backend, infos[item.job_id])) for item in items if item.job_id is not None]
        self._apply(backend_name, backend, told)
        return True

    def _complete(self, item: WorkItem, backend: HPCBackend, info: HPCJobInfo) -> HPCJobInfo:
        """Add what the exit record and the container runtime know about an end."""
        if not info.finished or not backend.capabilities.executes:
            return info
        return read_end(info, self._workshop.site.dirs(item), item.job_name, self._workshop.site.runtime)

    def _apply(self, backend_name: str, backend: HPCBackend, told: Sequence[tuple[WorkItem, HPCJobInfo]]) -> None:
        policies = self._workshop.policies([item for item, info in told if info.status in _MAY_FAIL])
        verdicts = [
            (
                item,
                judge(
                    item,
                    info,
                    policies.get(item.step_run_id, _NO_POLICY),
                    actor=backend_name,
                    grace_seconds=self._workshop.grace_seconds,
                    jitter=self._workshop.jitter(),
                ),
            )
            for item, info in told
        ]
        done, mine = self._write(backend, verdicts)
        retry = [item for item, _ in verdicts if item.step_run_id in done.refused]
        for item in retry:
            log.debug("news about %s/%s came too late: %s", item.step, item.key, done.refused[item.step_run_id])
        self._clean(backend, verdicts, done)
        collect = [item for item, _ in verdicts if item.step_run_id in mine]
        self._collector.collect_items(backend_name, collect)

    def _write(self, backend: HPCBackend, verdicts: Sequence[tuple[WorkItem, Verdict]]) -> tuple[Applied, set[UUID]]:
        """Write it down: what was done, and whose results are now in this worker's hands."""
        ending = [item for item, verdict in verdicts if _succeeds(verdict)]
        mine = {item.step_run_id for item in ending[:_AT_ONCE]} if backend.capabilities.executes else set()
        lease = Lease(self._workshop.worker, self._workshop.lease_seconds)
        moves = []
        for item, verdict in verdicts:
            if not verdict.events:
                continue
            notes: Sequence[EventNote] = verdict.events
            if _succeeds(verdict) and not backend.capabilities.executes:
                notes = [*notes, EventNote(Event.RESULTS_COLLECTED, self._workshop.worker, text="nothing to collect")]
            holder = lease if item.step_run_id in mine else None
            moves.append(Move(item.step_run_id, notes, item.token, verdict.facts, holder))
        quiet = [(item, verdict) for item, verdict in verdicts if not verdict.events]
        with self._workshop.database.begin("commit.news") as unit:
            store = RunStore(unit)
            done = store.apply(moves)
            store.note_waits([(i.step_run_id, i.token, v.waiting_for, v.unknown) for i, v in quiet if _is_news(i, v)])
            rest = [item.step_run_id for item in ending if item.step_run_id not in mine]
            unit.after_commit(lambda: self._ring(ending, rest if backend.capabilities.executes else [], done))
        return done, mine & set(done.applied)

    def _ring(self, ending: Sequence[WorkItem], rest: Sequence[UUID], done: Applied) -> None:
        if rest:
            self._workshop.doorbell.ring(Bell.COLLECT, ending[0].backend, rest)
        self._workshop.doorbell.ring_all(Bell.LAUNCH, done.ready)

    @staticmethod
    def _clean(backend: HPCBackend, verdicts: Sequence[tuple[WorkItem, Verdict]], done: Applied) -> None:
        """Let the backend forget jobs that ended without results; the others go when their results are collected."""
        applied = set(done.applied)
        gone = [
            item.job_id
            for item, verdict in verdicts
            if verdict.events and item.step_run_id in applied and item.job_id
            and (not _succeeds(verdict) and verdict.events[0].event is not Event.JOB_STARTED)
        ]  # fmt: skip
        forget(backend, gone)


def _succeeds(verdict: Verdict) -> bool:
    return bool(verdict.events) and verdict.events[-1].event is Event.JOB_SUCCEEDED


def _is_news(item: WorkItem, verdict: Verdict) -> bool:
    """Whether a step run that stays as it is has something new to say for itself."""
    return verdict.unknown or item.unknown_seconds is not None or verdict.waiting_for != item.waiting_for
