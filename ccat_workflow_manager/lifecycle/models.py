"""The values that cross borders: frozen, plain, without any I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.states import Event, Status


@dataclass(frozen=True, slots=True)
class Resources:
    """What one attempt asks of its backend."""

    cpu: float = 1
    memory_gb: float = 2
    time_hours: float = 1
    gpu: int = 0
    partition: str | None = None
    account: str | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the host and where a container sees it."""

    source: str
    target: str
    writable: bool


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and why a step run is tried again."""

    max_attempts: int = 2
    backoff_seconds: float = 10
    on: frozenset[FailureReason] | None = None
    """None: what `failures.RETRYABLE_BY_DEFAULT` says."""
    memory_factor: float = 2
    memory_cap_gb: float | None = None
    time_factor: float = 2
    time_cap_hours: float | None = None


@dataclass(frozen=True, slots=True)
class TransitionEvent:
    """An event and what it must carry: why, and who or what caused it."""

    event: Event
    actor: str
    reason: FailureReason | None = None
    text: str | None = None
    delay_seconds: float | None = None
    """For `retried` and `released`: how long until the next claim, counted by the database's clock."""
    resources: Resources | None = None
    """For `retried`: what the next attempt asks for, if that differs."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a step run while it is being worked on, and for how long unless renewed."""

    owner: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Transition:
    """What is to happen to one step run: one or more events in a row, applied together or not at all.

    `token` is the fencing token the caller was given when it claimed or read the row; None only for requests of people,
    who hold none. `facts` become columns of the step run and its attempt.
    """

    step_run_id: UUID
    notes: Sequence[TransitionEvent]
    token: int | None = None
    facts: Facts | None = None
    lease: Lease | None = None
    waiting_for: str | None = None
    """Why the step run does not get on after this, if the notes do not say so."""
    products: Sequence[NewProduct] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What became known about an attempt. None means: nothing new."""

    job_id: str | None = None
    job_state: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    wall_time_seconds: float | None = None
    cpu_hours: float | None = None
    peak_memory_gb: float | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    node: str | None = None
    warnings: Sequence[str] | None = None
    cpu_hours_allocated: float | None = None


@dataclass(frozen=True, slots=True)
class NewProduct:
    """One output of an attempt, as the collector found it. `path` is relative to the attempt's output directory."""

    name: str
    type: str
    path: str
    size: int
    sha256: str
    is_directory: bool = False
    file_count: int = 1
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    parents: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the step runs of one run share."""

    run_id: UUID
    pipeline: str
    spec_id: UUID
    parameters: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One step run as a worker sees it: everything needed to launch, follow, cancel or collect it."""

    step_run_id: UUID
    run: RunFacts
    step: str
    position: int
    key: str
    item: JSON
    backend: str
    status: Status
    attempt: int
    max_attempts: int
    claims: int
    """How often this same attempt has been claimed; above 1, a job may already exist under its name."""
    token: int
    job_id: str | None
    resources: Resources
    priority: int
    cancel_requested: bool
    waiting_for: str | None
    unknown_seconds: float | None
    """How long the backend has not known the job, by the database's clock."""
    withdrawn: bool = False
    """The cancel is none that anybody asked for: the step run is to wait again, because its breaker has opened."""

    @property
    def job_name(self) -> str:
        """Unique for each attempt, for ever; short enough for every scheduler."""
        return job_name(self.step_run_id, self.attempt)


JOB_PREFIX = "ccat-"
"""How the names of all our jobs begin."""
_JOB_NAME = re.compile(rf"{JOB_PREFIX}([0-9a-f]{{32}})-([1-9][0-9]{{0,8}})", re.ASCII)


def job_name(step_run_id: UUID, attempt: int) -> str:
    """The name under which an attempt is known to its backend."""
    return f"{JOB_PREFIX}{step_run_id.hex}-{attempt}"


def parse_job_name(name: str) -> tuple[UUID, int] | None:
    """Which attempt bears this name; None if no attempt could."""
    match = _JOB_NAME.fullmatch(name)
    return (UUID(match[1]), int(match[2])) if match else None
