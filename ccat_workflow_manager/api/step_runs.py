"""Step runs: their state, attempts, events, products and logs; cancel and retry."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Actor, Body, Ctx
from ccat_workflow_manager.api.event_stream import EventStream, LastEventId
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode,
    json_response,
    number_key,
    page,
    read_one,
    text_key,
)
from ccat_workflow_manager.api.products import Caveat, ProductPage
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries import Row
from ccat_workflow_manager.db.queries import products as product_queries
from ccat_workflow_manager.db.queries import step_runs as queries
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.errors import Fault, Invalid, NotFound
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.lifecycle.states import Event, Status
from ccat_workflow_manager.services.log_stream import BOTH, LogStream, LogStreams, Start
from ccat_workflow_manager.services.logs import LogPiece
from ccat_workflow_manager.services.outcomes import Outcome
from ccat_workflow_manager.services.retry_request import Reason, RetryRequest
from ccat_workflow_manager.threads import in_thread

router = api_router(prefix="/step-runs/{step_run_id}", tags=["step runs"])

_MOST_LINES = 1_000_000
_MOST_BYTES = 2**63 - 1
_BIGGEST_ATTEMPT = 32_767
_PLAIN = "text/plain; charset=utf-8"


class StepRun(Shape):
    id: UUID
    run_id: UUID
    step: str
    key: str
    status: Status
    reason: str | None = Field(description="Why it did not complete: one of a fixed list.")
    reason_text: str | None
    waiting_for: str | None = Field(description="What it waits for; always given while it is PENDING.")
    backend: str
    attempt: int = Field(description="0 before the first attempt.")
    max_attempts: int
    replay_of: UUID | None = Field(description="Its counterpart in the run that is repeated or reused.")
    reused: bool = Field(description="It did not run: it took over the products of `replay_of`.")
    job_id: str | None
    exit_code: int | None
    wall_time_seconds: float | None
    cpu_hours: float | None
    peak_memory_gb: float | None
    caveats: list[Caveat] = Field(description="What its results lack, although it COMPLETED.")
    cancel_requested_at: Time | None
    created_at: Time
    submitted_at: Time | None
    started_at: Time | None
    finished_at: Time | None


class StepRunDetail(StepRun):
    pipeline: str
    pipeline_version: int | None
    project: str
    item: Any = Field(description="Its item of `foreach`.")
    resources: Resources
    priority: int


class Attempt(Shape):
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
    cpu_hours_allocated: float | None = Field(description="CPU hours reserved, used or not, if the backend reports it.")
    peak_memory_gb: float | None
    reason: str | None
    reason_text: str | None
    warnings: list[str] | None
    claimed_at: Time
    submitted_at: Time | None
    started_at: Time | None
    finished_at: Time | None


class EventItem(Shape):
    id: int
    step_run_id: UUID
    run_id: UUID
    project: str
    at: Time
    event: Event
    from_status: Status | None
    to_status: Status
    attempt: int
    actor: str
    reason: str | None
    text: str | None


class StepRunPage(Page):
    items: list[StepRun]


class AttemptPage(Page):
    items: list[Attempt]


class EventPage(Page):
    items: list[EventItem]


class Difference(Shape):
    part: str = Field(description="image, programs, command, environment, files, parameters, item, inputs or upstream.")
    now: str
    before: str


class Comparison(Shape):
    step_run_id: UUID
    reused: bool
    compared_with: UUID | None = Field(description="The step run of the earlier run.")
    text: str = Field(description="Why it was not reused.")
    differs: list[Difference]


class OutcomeRequest(Shape):
    outcome: Outcome = Field(description="completed: done in another way. skipped: not needed.")
    reason: Reason = Field(min_length=1, description="Why, for ever in the history.")


# --- reading ---------------------------------------------------------------------------------------------------------


def _step_run(context: Context, step_run_id: UUID) -> str:
    return read_one(context, "step run", queries.step_run_detail, step_run_id)


def _page_of(unit: UnitOfWork, step_run_id: UUID, kind: str, found: list[Row], limit: int) -> Response:
    if not found and not queries.step_run_exists(unit, step_run_id):
        raise NotFound(f"there is no step run {step_run_id}")
    return page(kind, found, limit)


@router.get("", response_model=StepRunDetail)
def get_step_run(context: Ctx, step_run_id: UUID) -> Response:
    """A step run with its item, resources and priority."""
    return json_response(_step_run(context, step_run_id))


@router.get("/attempts", response_model=AttemptPage)
def list_attempts(context: Ctx, step_run_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """The attempts, oldest first."""
    after = decode("attempts", cursor, number_key)
    with context.database.read() as unit:
        found = queries.attempts_page(unit, step_run_id, after or 0, limit + 1)
        return _page_of(unit, step_run_id, "attempts", found, limit)


@router.get("/events", response_model=EventPage)
def list_events(context: Ctx, step_run_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """The events, in the order of their times."""
    after = decode("events", cursor, number_key)
    with context.database.read() as unit:
        found = queries.events_page(unit, step_run_id, after or 0, limit + 1)
        return _page_of(unit, step_run_id, "events", found, limit)


@router.get("/products", response_model=ProductPage)
def list_products(context: Ctx, step_run_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """The published products, by name."""
    after = decode("products", cursor, text_key)
    with context.database.read() as unit:
        found = product_queries.products_page(unit, step_run_id, after, limit + 1)
        return _page_of(unit, step_run_id, "products", found, limit)


@router.get("/log", response_class=Response, responses={200: openapi.log})
async def get_log(
    request: Request,
    context: Ctx,
    step_run_id: UUID,
    attempt: Annotated[int | None, Query(ge=1, le=_BIGGEST_ATTEMPT, description="Default: the newest.")] = None,
    stream: Annotated[Literal["stdout", "stderr", "both"], Query(description="`both` with `follow`.")] = "stdout",
    tail: Annotated[int | None, Query(ge=0, le=_MOST_LINES, description="Only this many lines at the end.")] = None,
    offset: Annotated[int | None, Query(ge=0, le=_MOST_BYTES, description="Only the text after this byte.")] = None,
    follow: Annotated[bool, Query(description="As server-sent events, until the step run is finished.")] = False,
    last_event_id: LastEventId = None,
) -> Response:
    """The output of an attempt so far: all of it, its last lines, or at most 4 MiB from `offset` on.

    With `follow` it comes as it grows, and that of further attempts behind it, unless `attempt` names one.
    """
    if tail is not None and offset is not None:
        raise Invalid(faults=[Fault("offset", "cannot be given together with tail")])
    if not follow:
        if stream == BOTH:
            raise Invalid(faults=[Fault("stream", "both come together only with follow")])
        return await in_thread(_log, context, step_run_id, attempt, stream, tail, offset)
    start = Start.of(stream, attempt, tail, offset)
    if last_event_id is not None:
        start = start.behind(last_event_id)
    found = LogStream(context.database, context.logs, step_run_id, start)
    first = await in_thread(found.look)
    streams: LogStreams = request.app.state.log_streams
    streams.enter()
    return EventStream(request, found.texts(first, streams), on_end=streams.leave)


def _log(
    context: Context, step_run_id: UUID, attempt: int | None, stream: str, tail: int | None, offset: int | None
) -> Response:
    log = context.logs.locate(step_run_id, attempt)
    if tail is None and offset is None:
        piece, texts = context.logs.whole(log, stream)
        return StreamingResponse(texts, headers=_log_headers(piece, whole=True), media_type=_PLAIN)
    piece = context.logs.read(log, stream, tail=tail, offset=offset)
    return Response(piece.text, headers=_log_headers(piece), media_type=_PLAIN)


def _log_headers(piece: LogPiece, *, whole: bool = False) -> dict[str, str]:
    headers = {"X-Content-Type-Options": "nosniff", "X-Log-Truncated": str(piece.truncated).lower()}
    if piece.size is not None:
        headers["X-Log-Size"] = str(piece.size)
    if piece.next_offset is not None and not whole:
        headers["X-Log-Next-Offset"] = str(piece.next_offset)
    return headers


@router.get("/why-not-reused", response_model=Comparison)
def why_not_reused(context: Ctx, step_run_id: UUID) -> Response:
    """What is different from the step run whose products it could have taken over."""
    return json_response(context.why_not_reused.explain(step_run_id))


# --- changes ---------------------------------------------------------------------------------------------------------


@router.post("/cancel", status_code=202, response_model=StepRunDetail)
def cancel_step_run(context: Ctx, actor: Actor, step_run_id: UUID) -> Response:
    """Request the cancellation of a step run. The step runs that depend on it are skipped."""
    context.requests.cancel_step_runs([step_run_id], actor=actor)
    return json_response(_step_run(context, step_run_id), 202)


@router.post(
    "/retry",
    status_code=202,
    response_model=StepRunDetail,
    openapi_extra=openapi.body(RetryRequest, openapi.RETRY_EXAMPLES, required=False),
)
def retry_step_run(context: Ctx, actor: Actor, step_run_id: UUID, body: Body) -> Response:
    """Retry a step run, and those that were skipped only because of it; with other resources, or elsewhere."""
    request = body.parse_optional(RetryRequest)
    shown = json.loads(_step_run(context, step_run_id))
    wrong = [name for name in ("step", "key") if getattr(request, name) not in (None, shown[name])]
    if wrong:
        raise Invalid(faults=[Fault(name, f"must be {shown[name]!r}, or not be given") for name in wrong])
    context.requests.retry_step_runs([step_run_id], request, actor=actor)
    return json_response(_step_run(context, step_run_id), 202)


@router.post(
    "/outcome",
    status_code=202,
    response_model=StepRunDetail,
    openapi_extra=openapi.body(OutcomeRequest, openapi.OUTCOME_EXAMPLES),
)
def set_outcome(context: Ctx, actor: Actor, step_run_id: UUID, body: Body) -> Response:
    """Set a step run that did not complete to completed or skipped, for good. What depends on it goes on."""
    request = body.parse(OutcomeRequest)
    context.outcomes.set(step_run_id, request.outcome, request.reason, actor=actor)
    return json_response(_step_run(context, step_run_id), 202)
