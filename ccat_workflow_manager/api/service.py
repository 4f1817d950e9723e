"""The service: health, backends with their queues, workers, what needs an operator, and the summary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from threading import Lock
from typing import Annotated, Any
from uuid import UUID

from fastapi import Path, Request
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager import __version__
from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Actor, Body, Ctx, Who
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.overrides import Why
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    ProjectName,
    decode,
    etag_of,
    json_response,
    matches,
    not_modified,
    page,
    tagged,
    text_key,
    uuid_key,
)
from ccat_workflow_manager.api.problems import RETRY_AFTER_SECONDS, problem
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.migrate import require_current
from ccat_workflow_manager.db.queries import Row, figures
from ccat_workflow_manager.db.queries import service as queries
from ccat_workflow_manager.db.queries.attention import attention_count, attention_page
from ccat_workflow_manager.db.queries.service import BackendState
from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import Availability
from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.lifecycle.states import Status
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.services.queues import stored_queues
from ccat_workflow_manager.settings import Settings

health = api_router(tags=["service"])
router = api_router(tags=["service"])

_AVAILABILITY_SECONDS = 60


class Queue(Shape):
    """A queue (partition, node, pool) of a backend."""

    name: str
    available: bool
    running: int = Field(description="Jobs of this service, where the backend can tell.")
    pending: int
    cpus_total: float | None
    cpus_used: float | None
    memory_total_gb: float | None
    memory_used_gb: float | None
    limits: dict[str, Any] | None = Field(description="Largest request of one job.")
    nodes: dict[str, int] | None = Field(description="Nodes by state: full, mixed, idle, down, other; null: not known.")
    others_pending: int | None = Field(description="Waiting jobs of other users, where the backend can tell.")
    waited_seconds: float | None = Field(description="Median wait of our jobs that started in the last 15 minutes.")
    waiting_seconds: float | None = Field(description="How long the first of our jobs has waited for a place.")
    details: dict[str, Any] = Field(description="Further facts from the backend.")


class Attention(Shape):
    """A step run that needs an operator."""

    id: UUID
    run_id: UUID
    project: str
    pipeline: str
    step: str
    key: str
    backend: str
    job_id: str | None
    text: str = Field(description="The reason in the words of its backend, or what to do.")
    submitted_at: Time | None


class Health(Shape):
    status: str
    version: str


class DependencyCheck(Shape):
    ok: bool
    latency: float = Field(description="Seconds.")
    message: str


class Readiness(Shape):
    ready: bool
    dependencies: dict[str, DependencyCheck]


class BackendWork(Shape):
    name: str
    problem: str | None = Field(description="Why workers cannot use it at present.")
    problem_since: Time | None
    retry_at: Time | None
    workers: int
    ready: int = Field(description="Step runs that could start now.")
    live: int = Field(description="Step runs that have a job.")
    unknown_jobs: int = Field(description="Jobs named like ours but not in this database, at the last search.")
    stray_jobs: int = Field(description="Jobs of attempts that are over, at the last search; they are being stopped.")
    strays_stopped: int = Field(description="Jobs of attempts that are over, stopped so far.")
    reaped_at: Time | None = Field(description="Time of the last search for such jobs.")
    reap_problem: str | None = Field(description="Why the last search failed, or such a job could not be stopped.")


class Backend(BackendWork):
    default: bool
    queues: list[Queue] = Field(description="As a worker saw them in the last minutes.")
    available: bool = Field(description="Whether this process could use it.")
    reason: str
    installation_hint: str


class Drained(Shape):
    by: str
    why: str | None
    at: Time
    backends: list[str] = Field(description="What it serves again once it is resumed.")


class InHand(Shape):
    step_run_id: UUID
    run_id: UUID
    step: str
    key: str
    status: Status


class Worker(Shape):
    id: str
    host: str
    pid: int
    backends: list[str] = Field(description="What it takes work of; nothing while it is drained.")
    started_at: Time
    seen_at: Time
    last_completed_at: Time | None
    completed: int = Field(description="Tasks: one can concern many step runs.")
    ended_by_minute: list[int] = Field(
        description="Step runs that it has ended in each minute of the last hour, the present one last."
    )
    in_hand: int = Field(description="Step runs that it prepares or collects now.")
    working_on: list[InHand] = Field(description="The first of them.")
    drained: Drained | None = Field(description="null: it takes new work.")


class RecentCounts(Shape):
    CREATED: int
    COMPLETED: int
    FAILED: int
    CANCELLED: int


class LiveCounts(Shape):
    PENDING: int
    RUNNING: int


class OldestWaiting(Shape):
    id: UUID
    run_id: UUID
    pipeline: str
    step: str
    key: str
    backend: str
    created_at: Time
    waiting_seconds: float


class RecentFailure(Shape):
    id: UUID
    pipeline: str
    pipeline_version: int | None
    status_reason: str | None
    created_at: Time
    finished_at: Time | None


class Summary(Shape):
    generated_at: Time
    last_24_hours: RecentCounts = Field(description="Runs that were created or ended in this time.")
    live: LiveCounts = Field(description="Runs, each status counted up to 100,000.")
    live_step_runs: dict[str, int] = Field(description="Step runs by status.")
    workers: int
    oldest_waiting: OldestWaiting | None
    recent_failures: list[RecentFailure]
    attention: int = Field(description="Number of step runs that need an operator.")
    backends: list[BackendWork]


class BackendPage(Page):
    items: list[Backend]


class WorkerPage(Page):
    items: list[Worker]


class AttentionPage(Page):
    items: list[Attention]


# --- health ---------------------------------------------------------------------------------------------------------


@health.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """The process answers."""
    return json_response(json.dumps({"status": "ok", "version": __version__}))


@health.get("/readyz", response_model=Readiness, responses={503: openapi.not_ready})
def readyz(context: Ctx) -> Response:
    """The state of each dependency, with its latency and error; 503 if one is unavailable."""
    checks = {
        "postgres": lambda: _ask_postgres(context),
        "redis": context.doorbell.ping,
        "migrations": lambda: require_current(context.database),
    }
    found = {name: _checked(check) for name, check in checks.items()}
    bad = [name for name, each in found.items() if not each["ok"]]
    if not bad:
        return json_response(json.dumps({"ready": True, "dependencies": found}))
    detail = "; ".join(f"{name}: {found[name]['message']}" for name in bad)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return problem(503, "not_ready", detail, headers=headers, ready=False, dependencies=found)


def _ask_postgres(context: Context) -> None:
    with context.database.read() as unit:
        unit.ping()


def _checked(check: Callable[[], None]) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        check()
    except WorkflowError as error:
        ok, message = False, error.message
    else:
        ok, message = True, "ok"
    return {"ok": ok, "latency": round(time.perf_counter() - start, 6), "message": message}


# --- backends and workers -------------------------------------------------------------------------------------------


class _Availabilities:
    """Caches for a minute which backends this process can use; finding out imports their libraries."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, Availability] = {}
        self._until = 0.0

    def get(self, settings: Settings) -> dict[str, Availability]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._known = registry.list_backends(settings.for_backend)
                self._until = time.monotonic() + _AVAILABILITY_SECONDS
            return self._known


availabilities = _Availabilities()


@router.get("/backends", response_model=BackendPage)
def list_backends(context: Ctx, who: Who, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Every backend: availability, workers, queues, waiting and live step runs, and its last problem."""
    after = decode("backends", cursor, text_key)
    with context.database.read() as unit:
        states = queries.backend_states(unit, who.projects)
    available = availabilities.get(context.settings)
    found = [
        Row(name, json.dumps(_backend(name, context, available.get(name), states.get(name))))
        for name in sorted(available.keys() | states.keys())
        if after is None or name > after
    ]
    return page("backends", found[: limit + 1], limit)


def _backend(name: str, context: Context, known: Availability | None, state: BackendState | None) -> dict[str, Any]:
    known = known or Availability(False, "is not installed in the environment of this process")
    return {
        "name": name,
        "default": name == context.settings.hpc_backend,
        "available": known.available,
        "reason": known.reason,
        "installation_hint": known.installation_hint,
        **asdict(state or BackendState()),
        "queues": stored_queues(context.doorbell, name),
    }


@router.get("/attention", response_model=AttentionPage)
def list_attention(
    context: Ctx, who: Who, project: ProjectName = None, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """Step runs that need an operator, for example to release a job that is held at the scheduler; oldest first.

    Also those whose cancellation stays unconfirmed, and those that left a job which does not stop.
    """
    after = decode("attention", cursor, uuid_key)
    with context.database.read() as unit:
        found = attention_page(unit, after, limit + 1, who.within(project))
    return page("attention", found, limit)


@router.get("/workers", response_model=WorkerPage)
def list_workers(context: Ctx, who: Who, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """The workers that have reported recently."""
    after = decode("workers", cursor, text_key)
    with context.database.read() as unit:
        found = queries.workers_page(unit, after, limit + 1, who.projects)
    return page("workers", found, limit)


@router.get("/dashboard/summary", response_model=Summary, responses={304: openapi.not_modified})
def get_summary(request: Request, context: Ctx, who: Who) -> Response:
    """Runs of the last 24 hours, live runs and step runs, the oldest waiting step run and the latest failures."""
    answers: Answers = request.app.state.answers
    text = answers.get(("summary", who.projects), lambda: _summary(context, who))
    etag = etag_of(text)
    if matches(request.headers.get("if-none-match"), etag):
        return not_modified(etag)
    return tagged(text, etag)


def _summary(context: Context, who: Identity) -> str:
    with context.database.read() as unit:
        text = queries.summary(unit, who.projects)
        states = queries.backend_states(unit, who.projects)
        attention = attention_count(unit, who.projects)
        counted = {
            "last_24_hours": figures.recent_runs(unit, 24, who.projects),
            "live_step_runs": figures.live(unit, who.projects),
        }
    backends = json.dumps([{"name": name, **asdict(state)} for name, state in states.items()])
    return f'{text[:-1]}, {json.dumps(counted)[1:-1]}, "attention": {attention}, "backends": {backends}}}'


class DrainRequest(Shape):
    why: Why | None = Field(default=None, description="The reason, for others and for the audit.")


_WorkerId = Annotated[str, Path(max_length=300)]


@router.post(
    "/workers/{worker}/drain",
    response_model=Worker,
    openapi_extra=openapi.body(DrainRequest, openapi.DRAIN_EXAMPLES, required=False),
)
def drain_worker(context: Ctx, actor: Actor, worker: _WorkerId, body: Body) -> Response:
    """Have a worker take no new work. It finishes what it has, and stays idle until it is resumed or stopped."""
    return json_response(context.workers.drain(worker, actor=actor, why=body.parse_optional(DrainRequest).why))


@router.post("/workers/{worker}/resume", response_model=Worker)
def resume_worker(context: Ctx, worker: _WorkerId) -> Response:
    """Have a drained worker take work again."""
    return json_response(context.workers.resume(worker))
