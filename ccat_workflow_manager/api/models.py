"""The shapes of the answers and of the bodies, for OpenAPI and for the tests. Nothing is serialised through them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ccat_workflow_manager.api.queue_models import Queue
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.lifecycle.states import Event, RunStatus, Status

Time = datetime


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


# --- bodies ---------------------------------------------------------------------------------------------------------


class RunRequest(_Shape):
    """A run of a pipeline by name, or of an inline definition (`spec`)."""

    pipeline: str | None = Field(None, description="Name of a registered pipeline.")
    version: int | None = Field(None, description="Default: its newest version.")
    spec: dict[str, Any] | None = Field(None, description="An inline definition instead of a name (PipelineSpec).")
    parameters: dict[str, Any] = Field({}, description="Checked by the JSON Schema of the pipeline.")
    priority: int | None = Field(None, ge=-1000, le=1000, description="Default: the pipeline's.")
    labels: dict[str, str] = Field({}, description="Up to 50, to find the run by.")
    backend: str | None = Field(None, description="For the steps that name none.")


class BulkRequest(_Shape):
    runs: list[RunRequest] = Field(min_length=1, max_length=5000)


class RunFilterBody(_Shape):
    """All conditions hold together; at least one is needed."""

    status: RunStatus | list[RunStatus] | None = None
    pipeline: str | None = None
    label: str | list[str] | None = Field(None, description="`name:value`")
    created_after: Time | None = None
    q: str | None = Field(None, max_length=200)


class RunChoice(_Shape):
    """Either ids or a filter."""

    ids: list[UUID] | None = Field(None, min_length=1, max_length=5000)
    filter: RunFilterBody | None = None


class PipelinePatch(_Shape):
    enabled: bool | None = None
    priority: int | None = Field(None, ge=-1000, le=1000)


BODIES: tuple[type[BaseModel], ...] = (RunRequest, BulkRequest, RunChoice, PipelinePatch)


# --- errors ---------------------------------------------------------------------------------------------------------


class ProblemFault(_Shape):
    path: str = Field(description="Where, like `steps[1].depends_on[0]`; empty for the whole.")
    message: str


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `detail` and the messages are for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    faults: list[ProblemFault]


# --- runs -----------------------------------------------------------------------------------------------------------


class Counts(_Shape):
    """Step runs by status."""

    PENDING: int
    STAGING_DATA: int
    SUBMITTED: int
    RUNNING: int
    COLLECTING_RESULTS: int
    COMPLETED: int
    FAILED: int
    CANCELLED: int
    SKIPPED: int


class StepRun(_Shape):
    id: UUID
    run_id: UUID
    step: str
    key: str
    status: Status
    reason: str | None = Field(description="Why it did not complete: one of a closed list.")
    reason_text: str | None
    waiting_for: str | None = Field(description="What it is waiting for; always said while it is PENDING.")
    backend: str
    attempt: int = Field(description="0 before the first.")
    max_attempts: int
    job_id: str | None
    exit_code: int | None
    wall_time_seconds: float | None
    cpu_hours: float | None
    peak_memory_gb: float | None
    cancel_requested_at: Time | None
    created_at: Time
    submitted_at: Time | None
    started_at: Time | None
    finished_at: Time | None


class StepRunDetail(StepRun):
    pipeline: str
    pipeline_version: int | None
    item: Any = Field(description="The item of `foreach` that it works on.")
    resources: Resources
    priority: int


class RunItem(_Shape):
    """A run as lists show it."""

    id: UUID
    pipeline: str
    pipeline_version: int | None = Field(description="null: an inline definition.")
    status: RunStatus
    status_reason: str | None
    cancel_requested_at: Time | None
    paused: bool
    parameters: dict[str, Any]
    labels: dict[str, str]
    priority: int
    backend: str | None
    created_by: str
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    counts: Counts


class Run(RunItem):
    step_runs: list[StepRun]


class Ids(_Shape):
    ids: list[UUID]


class Attempt(_Shape):
    step_run_id: UUID
    number: int
    backend: str
    job_name: str
    job_id: str | None
    job_state: str | None
    worker: str
    node: str | None
    resources: Resources
    exit_code: int | None
    signal: int | None
    wall_time_seconds: float | None
    cpu_hours: float | None
    cpu_hours_allocated: float | None = Field(description="What was kept for it, used or not; if the backend tells.")
    peak_memory_gb: float | None
    reason: str | None
    reason_text: str | None
    warnings: list[str] | None
    claimed_at: Time
    submitted_at: Time | None
    started_at: Time | None
    finished_at: Time | None


class EventItem(_Shape):
    id: int
    step_run_id: UUID
    run_id: UUID
    at: Time
    event: Event
    from_status: Status | None
    to_status: Status
    attempt: int
    actor: str
    reason: str | None
    text: str | None


# --- pipelines ------------------------------------------------------------------------------------------------------


class PipelineItem(_Shape):
    name: str
    version: int
    description: str
    enabled: bool
    priority: int
    content_hash: str
    created_at: Time
    updated_at: Time


class Pipeline(PipelineItem):
    definition: dict[str, Any]


class AppliedPipeline(Pipeline):
    warnings: list[str] = Field(description="What no queue of a backend seems to give. It is applied all the same.")


class PipelineVersion(_Shape):
    name: str
    version: int
    description: str
    content_hash: str
    created_at: Time
    definition: dict[str, Any]


# --- products -------------------------------------------------------------------------------------------------------


class Product(_Shape):
    id: UUID
    run_id: UUID
    step_run_id: UUID
    pipeline: str
    step: str
    key: str
    attempt: int
    name: str
    type: str
    path: str = Field(description="Below the output directory of the attempt.")
    size: int
    sha256: str
    is_directory: bool
    file_count: int
    metadata: dict[str, Any]
    created_at: Time


class LineageEdge(_Shape):
    parent: UUID
    child: UUID
    declared: bool = Field(description="False: it follows from the order of the steps.")


class Lineage(_Shape):
    product: Product
    ancestors: list[Product]
    descendants: list[Product]
    edges: list[LineageEdge]
    truncated: bool


# --- service --------------------------------------------------------------------------------------------------------


class Health(_Shape):
    status: str
    version: str


class DependencyCheck(_Shape):
    ok: bool
    latency: float = Field(description="Seconds.")
    message: str


class Readiness(_Shape):
    ready: bool
    dependencies: dict[str, DependencyCheck]


class BackendWork(_Shape):
    name: str
    problem: str | None = Field(description="Why it cannot be used now, as workers found.")
    problem_since: Time | None
    retry_at: Time | None
    workers: int
    ready: int = Field(description="Step runs that could start now.")
    live: int = Field(description="Step runs that have a job.")
    unknown_jobs: int = Field(description="Jobs with names like ours that nobody here knows, at the last look.")
    stray_jobs: int = Field(description="Jobs of attempts that are over, at the last look; they are being stopped.")
    strays_stopped: int = Field(description="Such jobs that have been stopped so far.")
    reaped_at: Time | None = Field(description="When its jobs were last looked through for such ones.")
    reap_problem: str | None = Field(description="Why they could not be looked through, or such ones not be stopped.")


class Backend(BackendWork):
    default: bool
    queues: list[Queue] = Field(description="As a worker saw them last, in the last minutes.")
    available: bool = Field(description="Whether this process could use it.")
    reason: str
    installation_hint: str


class Worker(_Shape):
    id: str
    host: str
    pid: int
    backends: list[str]
    started_at: Time
    seen_at: Time
    last_completed_at: Time | None
    completed: int


class RecentCounts(_Shape):
    PENDING: int
    RUNNING: int
    COMPLETED: int
    FAILED: int
    CANCELLED: int


class LiveCounts(_Shape):
    PENDING: int
    RUNNING: int


class OldestWaiting(_Shape):
    id: UUID
    run_id: UUID
    pipeline: str
    step: str
    key: str
    backend: str
    created_at: Time
    waiting_seconds: float


class RecentFailure(_Shape):
    id: UUID
    pipeline: str
    pipeline_version: int | None
    status_reason: str | None
    created_at: Time
    finished_at: Time | None


class Summary(_Shape):
    generated_at: Time
    last_24_hours: RecentCounts
    live: LiveCounts
    workers: int
    oldest_waiting: OldestWaiting | None
    recent_failures: list[RecentFailure]
    attention: int = Field(description="How many step runs wait for a person.")
    backends: list[BackendWork]


# --- pages ----------------------------------------------------------------------------------------------------------


class _Page(_Shape):
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null: this was the last.")


class RunPage(_Page):
    items: list[RunItem]


class PipelinePage(_Page):
    items: list[PipelineItem]


class VersionPage(_Page):
    items: list[PipelineVersion]


class AttemptPage(_Page):
    items: list[Attempt]


class EventPage(_Page):
    items: list[EventItem]


class ProductPage(_Page):
    items: list[Product]


class BackendPage(_Page):
    items: list[Backend]


class WorkerPage(_Page):
    items: list[Worker]
