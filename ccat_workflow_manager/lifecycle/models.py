"""The values that services, backends and the database exchange."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
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
    """A directory of the host, and its path in a container."""

    source: str
    target: str
    writable: bool


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and for which failures a step run is retried."""

    max_attempts: int = 2
    backoff_seconds: float = 10
    on: frozenset[FailureReason] | None = None
    """None: `failures.RETRYABLE_BY_DEFAULT`."""
    memory_factor: float = 2
    memory_cap_gb: float | None = None
    time_factor: float = 2
    time_cap_hours: float | None = None
    irreversible_after: str | None = None
    """The file in the workspace with which the program does what must not be done twice."""
    irreversible: bool = False
    """The attempt has made this file."""


@dataclass(frozen=True, slots=True)
class Caveat:
    """What the results of a completed step run lack."""

    kind: str
    text: str


class What(StrEnum):
    """The parts of a finished run that are removed together."""

    RUN = "run"
    """Its rows, and all its directories."""
    WORKSPACES = "workspaces"
    """The workspaces and the /tmp of its attempts. Products, logs and manifests stay."""
    FAILED_OUTPUT = "failed_output"
    """The output of attempts that did not complete."""


@dataclass(frozen=True, slots=True)
class TransitionEvent:
    """An event of a step run, who caused it, and why."""

    event: Event
    actor: str
    reason: FailureReason | None = None
    text: str | None = None
    delay_seconds: float | None = None
    """For `retried` and `released`: the time until the next claim, by the clock of the database."""
    resources: Resources | None = None
    """For `retried`: the resources of the next attempt, if they differ."""
    backend: str | None = None
    """For `retried`: the backend of the next attempt, if it differs."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right of a worker to work on a step run, until it expires."""

    owner: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Transition:
    """One or more events of one step run in a row, applied together or not at all.

    `token` is the fencing token that the caller read with the step run; None only for requests of users. `facts` become
    columns of the step run and its attempt.
    """

    step_run_id: UUID
    events: Sequence[TransitionEvent]
    token: int | None = None
    facts: Facts | None = None
    lease: Lease | None = None
    waiting_for: str | None = None
    """Why the step run waits afterwards, if the events do not say so."""
    products: Sequence[NewProduct] = ()
    caveats: Sequence[Caveat] = ()

    def is_fenced_off(self, token: int) -> bool:
        """Whether the step run, which has this token now, has changed hands since the caller read it."""
        return self.token is not None and self.token != token


@dataclass(frozen=True, slots=True)
class Facts:
    """What was observed of an attempt. None: nothing new."""

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
    provenance: Mapping[str, JSON] | None = None
    """What the attempt ran that its definition does not say: the digest of its image, or its programs on the host."""


@dataclass(frozen=True, slots=True)
class NewProduct:
    """One output of an attempt. `path` is relative to the output directory of the attempt."""

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
    """What all step runs of one run have in common."""

    run_id: UUID
    project: str
    pipeline: str
    spec_id: UUID
    parameters: Mapping[str, JSON]
    trace: str | None = None
    """The trace of the request that created the run, as the header `traceparent`."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A step run with all that a worker needs to launch, poll, cancel or collect it."""

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
    """How often this attempt has been claimed. Above 1, a job of its name may exist already."""
    token: int
    job_id: str | None
    resources: Resources
    priority: int
    cancel_requested: bool
    waiting_for: str | None
    unknown_seconds: float | None
    """How long the backend has not known the job, by the clock of the database."""
    replay_of: UUID | None = None
    """The step run of an earlier run with the same step and key."""
    reuse: bool = False
    """It takes over the products of `replay_of`, if nothing that decides them has changed."""
    requeued_by_breaker: bool = False
    """A breaker requested the cancel: the step run will be PENDING again."""

    @property
    def job_name(self) -> str:
        """Unique to the attempt for all time, and short enough for every scheduler."""
        return job_name(self.step_run_id, self.attempt)


JOB_PREFIX = "ccat-"
"""The beginning of every job name."""
_JOB_NAME = re.compile(rf"{JOB_PREFIX}([0-9a-f]{{32}})-([1-9][0-9]{{0,8}})", re.ASCII)


def job_name(step_run_id: UUID, attempt: int) -> str:
    """The name of the job of an attempt."""
    return f"{JOB_PREFIX}{step_run_id.hex}-{attempt}"


def parse_job_name(name: str) -> tuple[UUID, int] | None:
    """The attempt whose job has this name. None: it is not a name of ours."""
    match = _JOB_NAME.fullmatch(name)
    return (UUID(match[1]), int(match[2])) if match else None
