"""Circuit breakers: lists them and their events, and releases one."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Actor, Body, Ctx, Who
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.overrides import Terms
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    ProjectName,
    decode,
    json_response,
    number_key,
    page,
    uuid_key,
)
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.db.queries import breakers as queries
from ccat_workflow_manager.errors import NotFound

router = api_router(prefix="/breakers", tags=["breakers"])

Counting = Annotated[bool, Query(description="Include breakers that count failures but are not open.")]


class Breaker(Shape):
    id: UUID
    state: Literal["counting", "open", "probing"]
    project: str
    pipeline: str
    step: str
    image: str | None
    reason_text: str | None = Field(description="Why it opened.")
    failures: int = Field(description="Step runs that failed since the last success.")
    way: str | None = Field(description="Reason, exit code and signal of the failures that opened it.")
    held_back: int = Field(description="Step runs that are ready except for the breaker, counted up to 10,000.")
    probe: UUID | None = Field(description="The step run that runs as a test while the breaker is open.")
    opened_at: Time | None
    probe_at: Time | None = Field(description="Time of the next probe; null: an operator has to release it.")
    updated_at: Time


class BreakerEvent(Shape):
    id: int
    breaker_id: UUID
    project: str
    pipeline: str
    step: str
    image: str | None
    at: Time
    event: Literal["opened", "probed", "closed", "released"]
    actor: str
    text: str


class BreakerPage(Page):
    items: list[Breaker]


class BreakerEventPage(Page):
    items: list[BreakerEvent]


@router.get("", response_model=BreakerPage)
def list_breakers(
    context: Ctx,
    who: Who,
    project: ProjectName = None,
    counting: Counting = False,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Open breakers. Each holds back the step runs of one step with one image."""
    after = decode("breakers", cursor, uuid_key)
    with context.database.read() as unit:
        found = queries.breakers_page(unit, after, limit + 1, counting=counting, projects=who.within(project))
    return page("breakers", found, limit)


@router.get("/{breaker_id}/events", response_model=BreakerEventPage)
def list_breaker_events(
    context: Ctx, breaker_id: UUID, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """When a breaker opened, probed and closed, and why; also of a breaker that no longer exists."""
    after = decode("breaker events", cursor, number_key)
    with context.database.read() as unit:
        found = queries.breaker_events_page(unit, breaker_id, after or 0, limit + 1)
        if not found and queries.breaker_detail(unit, breaker_id) is None:
            raise NotFound(f"there is no breaker {breaker_id}")
    return page("breaker events", found, limit)


@router.post(
    "/{breaker_id}/release",
    response_model=Breaker,
    openapi_extra=openapi.body(Terms, openapi.TERM_EXAMPLES, required=False),
)
def release_breaker(context: Ctx, actor: Actor, breaker_id: UUID, body: Body) -> Response:
    """Close a breaker and restart its count. Returns the breaker as it was before.

    With `until`, failures do not count until then, so that it does not open again.
    """
    return json_response(context.breakers.release(breaker_id, body.parse_optional(Terms).term(actor)))
