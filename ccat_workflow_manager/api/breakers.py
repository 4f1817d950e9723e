"""Circuit breakers: what is held back because its like has failed, and letting it go."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from ccat_workflow_manager.api import breaker_models as models
from ccat_workflow_manager.api.dependencies import Actor, Ctx
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode,
    json_response,
    number_key,
    page,
    uuid_key,
)
from ccat_workflow_manager.db.views import breakers as views
from ccat_workflow_manager.errors import NotFound

router = APIRouter(prefix="/breakers", tags=["breakers"])

Counting = Annotated[bool, Query(description="Also those that have counted failures and are not open.")]


@router.get("", response_model=models.BreakerPage)
def list_breakers(
    context: Ctx, counting: Counting = False, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """What holds back the step runs of a step with an image, and why."""
    after = decode("breakers", cursor, uuid_key)
    with context.database.read() as unit:
        found = views.breakers_page(unit, after, limit + 1, counting=counting)
    return page("breakers", found, limit)


@router.get("/{breaker_id}/events", response_model=models.BreakerEventPage)
def list_breaker_events(
    context: Ctx, breaker_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """When it has opened, what was tried, and why it has closed; also when there is no such breaker any more."""
    after = decode("breaker events", cursor, number_key)
    with context.database.read() as unit:
        found = views.breaker_events_page(unit, breaker_id, after or 0, limit + 1)
        if not found and views.breaker_detail(unit, breaker_id) is None:
            raise NotFound(f"there is no breaker {breaker_id}")
    return page("breaker events", found, limit)


@router.post("/{breaker_id}/release", response_model=models.Breaker)
def release_breaker(context: Ctx, actor: Actor, breaker_id: UUID) -> Response:
    """Let go what it holds back, and begin to count anew: the breaker as it was."""
    return json_response(context.breakers.release(breaker_id, actor=actor))
