"""Events of everything, in pages or as a stream."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api.dependencies import Ctx, Who
from ccat_workflow_manager.api.event_stream import BEGIN, MEDIA_TYPE, EventStream, LastEventId
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.paging import DEFAULT_LIMIT, Limit, ProjectName, listed
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries import array
from ccat_workflow_manager.db.queries.feed import BEGIN as OLDEST
from ccat_workflow_manager.db.queries.feed import Place, Selection
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import similar
from ccat_workflow_manager.lifecycle.event_types import TYPES, events_of
from ccat_workflow_manager.services.feed import GZIP_BEGIN, compressed
from ccat_workflow_manager.threads import in_thread

router = api_router(tags=["events"])

_MOST_TYPES = 50
_LONGEST_NAME = 200


class EventData(Shape):
    run_id: UUID | None
    step_run_id: UUID | None = Field(description="null in events of a run or a backend.")
    project: str | None = Field(description="null in events of a backend.")
    pipeline: str | None
    step: str | None
    key: str | None
    backend: str | None
    attempt: int
    from_status: str | None
    status: str
    actor: str
    reason: str | None
    text: str | None


class CloudEvent(Shape):
    """CloudEvents 1.0."""

    id: str = Field(description="Unique, and the cursor behind this event.")
    specversion: str
    source: str = Field(description="`/ccat-wm/<deployment>`.")
    type: str
    subject: str = Field(description="`runs/ID`, `runs/ID/step-runs/ID` or `backends/NAME`.")
    time: Time
    datacontenttype: str
    data: EventData


class CloudEventPage(Page):
    items: list[CloudEvent]
    cursor: str = Field(description="How far this page looked: `after` for what comes later. Never null.")


_RESPONSES: dict[int | str, dict[str, Any]] = {200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}}
After = Annotated[
    str | None, Query(max_length=1000, description="A cursor or the id of an event: only what comes behind it.")
]
Types = Annotated[
    list[str] | None, Query(max_length=_MOST_TYPES, description="Only these types; `ccat.wm.run.*` means all of runs.")
]
PipelineName = Annotated[str | None, Query(max_length=_LONGEST_NAME, description="Only of this pipeline.")]


@router.get("/events", response_model=CloudEventPage, responses=_RESPONSES)
async def get_events(
    request: Request,
    context: Ctx,
    who: Who,
    after: After = None,
    type: Types = None,  # noqa: A002  the name of the query parameter
    project: ProjectName = None,
    pipeline: PipelineName = None,
    run: Annotated[UUID | None, Query(description="Only of this run.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    last_event_id: LastEventId = None,
) -> Response:
    """Events of step runs, runs and backends, the oldest first; what commits late is never passed over.

    A page without `after` begins with the oldest event. With `Accept: text/event-stream` the events are sent as they
    happen, from `Last-Event-ID` or `after` on, else from now on.
    """
    wanted = Selection(
        events=known_types(type) if type else None,
        projects=who.within(project),
        pipeline=pipeline,
        run_id=run,
    )
    if MEDIA_TYPE in request.headers.get("accept", ""):
        return await _stream(request, context, last_event_id or after, wanted)
    return await in_thread(_page, context, after, wanted, limit)


def known_types(types: list[str]) -> frozenset[str]:
    """The events that these types mean. Raises Invalid for a type that means none."""
    events, unknown = events_of(types)
    if unknown:
        raise Invalid(faults=[Fault("type", unknown_type(name)) for name in unknown])
    return events


def unknown_type(name: str) -> str:
    """What is wrong with a type that means no event."""
    close = similar(name, TYPES.values())
    hint = f"did you mean {close}?" if close else f"known: {', '.join(TYPES.values())}"
    return f"{name[:100]!r} is no type of event; {hint}"


def _page(context: Context, after: str | None, wanted: Selection, limit: int) -> Response:
    feed = context.feed
    page = feed.page(OLDEST if after is None else feed.cursors.decode(after), wanted, limit)
    cursor = json.dumps(feed.cursors.encode(page.place))
    items = array(feed.cloud_event(event) for event in page.events)
    return listed(f'{{"items":{items},"next_cursor":{cursor if page.more else "null"},"cursor":{cursor}}}')


async def _stream(request: Request, context: Context, after: str | None, wanted: Selection) -> Response:
    feed = context.feed
    feed.enter()
    with ExitStack() as unless_streamed:
        unless_streamed.callback(feed.leave)
        now = await feed.start()
        place: Place = now if after is None else feed.cursors.decode(after)
        cursor = feed.cursors.encode(place)
        unless_streamed.pop_all()
    headers = {"X-Event-Cursor": cursor, "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return EventStream(request, feed.stream(place, wanted), on_end=feed.leave, headers=headers)
    return EventStream(
        request,
        feed.stream(place, wanted, compressed),
        on_end=feed.leave,
        headers={**headers, "Content-Encoding": "gzip"},
        begin=GZIP_BEGIN + compressed(BEGIN),
    )
