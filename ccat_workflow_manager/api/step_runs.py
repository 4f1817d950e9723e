"""Step runs: their state, their history, their logs, and changing one."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from ccat_workflow_manager.api import models
from ccat_workflow_manager.api import openapi as documented
from ccat_workflow_manager.api.dependencies import Actor, Ctx, read_one
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode,
    json_response,
    number_key,
    page,
    text_key,
)
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import products as product_views
from ccat_workflow_manager.db.views import step_runs as views
from ccat_workflow_manager.db.views.sql import Row
from ccat_workflow_manager.errors import Fault, Invalid, NotFound
from ccat_workflow_manager.services.logs import LogPiece

router = APIRouter(prefix="/step-runs/{step_run_id}", tags=["step runs"])

_MOST_LINES = 1_000_000
_MOST_BYTES = 2**63 - 1
_BIGGEST_ATTEMPT = 32_767
_PLAIN = "text/plain; charset=utf-8"


def _step_run(context: Context, step_run_id: UUID) -> str:
    return read_one(context, "step run", views.step_run_detail, step_run_id)


def _page_of(unit: UnitOfWork, step_run_id: UUID, kind: str, found: list[Row], limit: int) -> Response:
    if not found and not views.step_run_exists(unit, step_run_id):
        raise NotFound(f"there is no step run {step_run_id}")
    return page(kind, found, limit)


@router.get("", response_model=models.StepRunDetail)
def get_step_run(context: Ctx, step_run_id: UUID) -> Response:
    """A step run, with what it works on and what it asks for."""
    return json_response(_step_run(context, step_run_id))


@router.get("/attempts", response_model=models.AttemptPage)
def list_attempts(context: Ctx, step_run_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """What is known about each try."""
    after = decode("attempts", cursor, number_key)
    with context.database.read() as unit:
        found = views.attempts_page(unit, step_run_id, after or 0, limit + 1)
        return _page_of(unit, step_run_id, "attempts", found, limit)


@router.get("/events", response_model=models.EventPage)
def list_events(context: Ctx, step_run_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Everything that happened to it, in order."""
    after = decode("events", cursor, number_key)
    with context.database.read() as unit:
        found = views.events_page(unit, step_run_id, after or 0, limit + 1)
        return _page_of(unit, step_run_id, "events", found, limit)


@router.get("/products", response_model=models.ProductPage)
def list_products(context: Ctx, step_run_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """What it has published, by name."""
    after = decode("products", cursor, text_key)
    with context.database.read() as unit:
        found = product_views.products_page(unit, step_run_id, after, limit + 1)
        return _page_of(unit, step_run_id, "products", found, limit)


@router.get("/log", response_class=Response, responses={200: documented.log})
def get_log(
    context: Ctx,
    step_run_id: UUID,
    attempt: Annotated[int | None, Query(ge=1, le=_BIGGEST_ATTEMPT, description="Default: the newest.")] = None,
    stream: Literal["stdout", "stderr"] = "stdout",
    tail: Annotated[int | None, Query(ge=0, le=_MOST_LINES, description="Only so many of the last lines.")] = None,
    offset: Annotated[int | None, Query(ge=0, le=_MOST_BYTES, description="Only what follows this byte.")] = None,
) -> Response:
    """What an attempt has printed so far: all of it, its last lines, or at most 4 MiB from `offset` on."""
    if tail is not None and offset is not None:
        raise Invalid(faults=[Fault("offset", "cannot be given together with tail")])
    place = context.logs.place(step_run_id, attempt)
    if tail is None and offset is None:
        piece, texts = context.logs.whole(place, stream)
        return StreamingResponse(texts, headers=_log_headers(piece, whole=True), media_type=_PLAIN)
    piece = context.logs.read(place, stream, tail=tail, offset=offset)
    return Response(piece.text, headers=_log_headers(piece), media_type=_PLAIN)


def _log_headers(piece: LogPiece, *, whole: bool = False) -> dict[str, str]:
    headers = {"X-Content-Type-Options": "nosniff", "X-Log-Truncated": str(piece.truncated).lower()}
    if piece.size is not None:
        headers["X-Log-Size"] = str(piece.size)
    if piece.next_offset is not None and not whole:
        headers["X-Log-Next-Offset"] = str(piece.next_offset)
    return headers


@router.post("/cancel", status_code=202, response_model=models.StepRunDetail)
def cancel_step_run(context: Ctx, actor: Actor, step_run_id: UUID) -> Response:
    """Ask for it to be stopped; what depends on it is skipped."""
    context.requests.cancel_step_runs([step_run_id], actor=actor)
    return json_response(_step_run(context, step_run_id), 202)


@router.post("/retry", status_code=202, response_model=models.StepRunDetail)
def retry_step_run(context: Ctx, actor: Actor, step_run_id: UUID) -> Response:
    """Start it again, and what was skipped only because of it."""
    context.requests.retry_step_runs([step_run_id], actor=actor)
    return json_response(_step_run(context, step_run_id), 202)
