"""Runs: asking for one, looking at them, and changing one."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from ccat_workflow_manager.api import models, run_filters
from ccat_workflow_manager.api import openapi as documented
from ccat_workflow_manager.api.body import Body
from ccat_workflow_manager.api.dependencies import PREFIX, Actor, Ctx, read_one
from ccat_workflow_manager.api.paging import DEFAULT_LIMIT, Cursor, Limit, decode, json_response, page, uuid_key
from ccat_workflow_manager.api.run_requests import IdempotencyKey, idempotency_key, run_request
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.views import runs as views
from ccat_workflow_manager.errors import Conflict

router = APIRouter(prefix="/runs", tags=["runs"])

_KIND = "runs"


def _run(context: Context, run_id: UUID) -> str:
    return read_one(context, "run", views.run_detail, run_id)


@router.post(
    "",
    status_code=202,
    response_model=models.Run,
    responses={200: documented.same_run},
    openapi_extra=documented.body("RunRequest", documented.RUN_EXAMPLES),
)
def create_run(context: Ctx, actor: Actor, body: Body, key: IdempotencyKey = None) -> Response:
    """Ask for a run of a pipeline, or of an inline definition.

    With an `Idempotency-Key`, the same key and body give the same run (200); the same key with another body, 409.
    """
    run_id, shown = context.requests.create_shown(
        run_request(body.json_object()), actor=actor, idempotency_key=idempotency_key(key)
    )
    address = {"Location": f"{PREFIX}/runs/{run_id}"}
    if shown is None:
        return json_response(_run(context, run_id), 200, address)
    return json_response(shown, 202, address)


@router.get("", response_model=models.RunPage)
def list_runs(
    context: Ctx,
    status: Annotated[list[str], Query(description="PENDING, RUNNING, ... May be repeated.")] = [],  # noqa: B006
    pipeline: str | None = None,
    label: Annotated[list[str], Query(description="`name:value`. May be repeated.")] = [],  # noqa: B006
    created_after: Annotated[str | None, Query(description="RFC 3339.")] = None,
    q: Annotated[str | None, Query(description="Part of pipeline, label or reason, or the beginning of an id.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Runs without their step runs, newest first."""
    wanted = run_filters.from_query(status, pipeline, label, created_after, q)
    after = decode(_KIND, cursor, uuid_key)
    with context.database.read() as unit:
        found = views.runs_page(unit, wanted, after, limit + 1)
    return page(_KIND, found, limit)


@router.get("/{run_id}", response_model=models.Run)
def get_run(context: Ctx, run_id: UUID) -> Response:
    """A run with its step runs."""
    return json_response(_run(context, run_id))


@router.post("/{run_id}/cancel", status_code=202, response_model=models.Run)
def cancel_run(context: Ctx, actor: Actor, run_id: UUID) -> Response:
    """Ask for a run to be stopped. Its step runs are CANCELLED when their jobs are known to be gone."""
    context.requests.cancel([run_id], actor=actor)
    return json_response(_run(context, run_id), 202)


@router.post("/{run_id}/retry", status_code=202, response_model=models.Run)
def retry_run(context: Ctx, actor: Actor, run_id: UUID) -> Response:
    """Start again whatever did not complete."""
    if not context.requests.retry([run_id], actor=actor):
        raise Conflict("there is nothing to retry in this run: nothing failed, was cancelled or was skipped")
    return json_response(_run(context, run_id), 202)


@router.post("/{run_id}/pause", status_code=202, response_model=models.Run)
def pause_run(context: Ctx, run_id: UUID) -> Response:
    """Hold back what has not been launched yet."""
    if not context.requests.pause([run_id], paused=True):
        raise Conflict("this run is finished, so there is nothing to hold back")
    return json_response(_run(context, run_id), 202)


@router.post("/{run_id}/resume", status_code=202, response_model=models.Run)
def resume_run(context: Ctx, run_id: UUID) -> Response:
    """Let go what was held back."""
    context.requests.pause([run_id], paused=False)
    return json_response(_run(context, run_id), 202)
