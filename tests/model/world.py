"""The state of the model: one step run, its jobs at a backend, two workers, and the messages under way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple
from uuid import UUID

from ccat_workflow_manager.db.locked_rows import LockedRow
from ccat_workflow_manager.db.transitions import validate_transitions
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import (
    Facts,
    Lease,
    Resources,
    RetryPolicy,
    RunFacts,
    Transition,
    TransitionEvent,
    WorkItem,
)
from ccat_workflow_manager.lifecycle.states import FINISHED, INITIAL, Event, Status

UNLIMITED = -1
WORKERS = 2
POLICY = RetryPolicy(max_attempts=2, backoff_seconds=0)
ENDS = {
    "succeeded": HPCJobInfo(JobStatus.COMPLETED, exit_code=0),
    "failed": HPCJobInfo(JobStatus.FAILED, exit_code=1, reason=FailureReason.PROGRAM_FAILED),
    "lost its node": HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE),
    "stopped": HPCJobInfo(JobStatus.CANCELLED),
    "found the attempt claimed": HPCJobInfo(JobStatus.FAILED, exit_code=75, reason=FailureReason.BACKEND_FAILED),
}
"""How a job may end, and what its backend then says."""
QUEUED, RUNNING = "queued", "running"
_ID = UUID(int=1)
_RUN = RunFacts(UUID(int=2), "default", "model", UUID(int=3), {})


class Row(NamedTuple):
    """The row of the step run. `expired`: the time of its lease is over."""

    status: Status = INITIAL
    attempt: int = 0
    max_attempts: int = POLICY.max_attempts
    claims: int = 0
    token: int = 0
    cancel: bool = False
    job: int | None = None
    owner: int | None = None
    expired: bool = False

    @property
    def leased(self) -> bool:
        return self.owner is not None and not self.expired


class Job(NamedTuple):
    """A job at the backend."""

    number: int
    attempt: int
    state: str = QUEUED
    started: bool = False

    @property
    def live(self) -> bool:
        return self.state in (QUEUED, RUNNING)

    @property
    def info(self) -> HPCJobInfo:
        if self.live:
            return HPCJobInfo(JobStatus.RUNNING if self.state == RUNNING else JobStatus.PENDING)
        return ENDS[self.state]


class Worker(NamedTuple):
    """What a worker does, and what it has read for that: the row, a job, the events that it will write."""

    doing: str = "nothing"
    row: Row = Row()
    job: int | None = None
    events: tuple[TransitionEvent, ...] = ()


class Budget(NamedTuple):
    """How often each misfortune, and each request of a user, may still happen."""

    crashes: int = 0
    losses: int = 0
    doubles: int = 0
    expiries: int = 0
    deferrals: int = 0
    cancels: int = 0
    retries: int = 0
    takings: int = 3
    """A lease that begins without a claim. More than crashes and expiries together, or results stay behind."""
    outside: int = 0
    """Ends that come from outside of the model: skipped, reused."""

    def spend(self, name: str) -> Budget | None:
        """None: nothing of it is left."""
        left: int = getattr(self, name)
        if left == UNLIMITED:
            return self
        return self._replace(**{name: left - 1}) if left > 0 else None


@dataclass(frozen=True, slots=True)
class Rules:
    """What protects a deployment. Each may be taken out, to see that it is needed."""

    fence: bool = True
    """Writes and renewals name the token that the worker has read."""
    claim: bool = True
    """A job that finds the attempt claimed on disk starts nothing."""
    sweep: bool = True
    """A manager rings again for what waits."""
    punctual: bool = True
    """A worker that may submit does so within its lease, or not at all."""


class World(NamedTuple):
    """Everything."""

    row: Row = Row()
    jobs: tuple[Job, ...] = ()
    workers: tuple[Worker, ...] = (Worker(),) * WORKERS
    bells: frozenset[Bell] = frozenset({Bell.LAUNCH})
    budget: Budget = Budget()

    def job(self, number: int | None) -> Job | None:
        return next((each for each in self.jobs if each.number == number), None)

    def with_job(self, job: Job) -> World:
        return self._replace(jobs=tuple(job if each.number == job.number else each for each in self.jobs))

    def with_worker(self, index: int, worker: Worker) -> World:
        workers = list(self.workers)
        workers[index] = worker
        return self._replace(workers=tuple(workers))

    def ring(self, *bells: Bell) -> World:
        return self._replace(bells=self.bells | set(bells))

    def canonical(self) -> World:
        """The same world, without what makes no difference: which worker is which, and jobs that are over for good."""
        row = self.row
        needed = {row.job, *(worker.job for worker in self.workers)}
        jobs = tuple(
            job for job in self.jobs if job.live or job.attempt == row.attempt or job.number in needed
        )  # fmt: skip
        world = self if len(jobs) == len(self.jobs) else self._replace(jobs=jobs)
        first, second = ((hash(worker), row.owner == index) for index, worker in enumerate(self.workers))
        if first <= second:
            return world
        owner = None if row.owner is None else 1 - row.owner
        return world._replace(workers=self.workers[::-1], row=row._replace(owner=owner))


class Label(NamedTuple):
    """An event as it is stored."""

    event: Event
    before: Status
    after: Status
    attempt: int


@cache
def written(
    row: Row, events: tuple[TransitionEvent, ...], token: int | None, job: int | None, owner: int | None
) -> tuple[Row, tuple[Label, ...]] | None:
    """What the product's writer makes of this row. None: it refuses.

    The rules are those of `db.transitions`; what is done here besides is what `WRITE_TRANSITIONS` does in SQL.
    """
    facts = None if job is None else Facts(job_id=str(job))
    lease = None if owner is None else Lease(str(owner), 1)
    transition = Transition(_ID, events, token, facts, lease)
    batch, applied, _ = validate_transitions({_ID: _locked(row)}, [transition])
    if not applied:
        return None
    [record] = batch.rows
    reset = bool(record.get("reset"))
    after = Row(
        Status(record["status"]),
        record["attempt"],
        record["max_attempts"],
        record["claims"],
        record["token"],
        row.cancel and not reset,
        None if reset else row.job if job is None else job,
        owner if "lease_owner" in record else None,
    )
    stored = tuple(
        Label(Event(each["event"]), Status(each["from_status"]), Status(each["to_status"]), each["attempt"])
        for each in batch.events
    )
    return after, stored


def _locked(row: Row) -> LockedRow:
    return LockedRow(
        id=_ID, run_id=_RUN.run_id, position=0, step="only", key="main", backend="model", status=row.status,
        attempt=row.attempt, max_attempts=row.max_attempts, claims=row.claims, token=row.token, unmet=0,
        has_dependents=False, cancel_requested=row.cancel, requeued_by_breaker=False, has_breaker=False, caveats=None,
    )  # fmt: skip


@cache
def item_of(row: Row) -> WorkItem:
    """The row as a worker reads it."""
    return WorkItem(
        step_run_id=_ID, run=_RUN, step="only", position=0, key="main", item=None, backend="model", status=row.status,
        attempt=row.attempt, max_attempts=row.max_attempts, claims=row.claims, token=row.token,
        job_id=None if row.job is None else str(row.job), resources=Resources(), priority=0,
        cancel_requested=row.cancel, waiting_for=None, unknown_seconds=None,
    )  # fmt: skip


def is_over(row: Row) -> bool:
    return row.status in FINISHED
