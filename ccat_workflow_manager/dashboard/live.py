"""The live stream: names of what has changed. One reader of the database serves all viewers of this process."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Set
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from fastapi import Request
from starlette.responses import Response

from ccat_workflow_manager.api.dependencies import Who
from ccat_workflow_manager.api.event_stream import STREAM_HEADERS, EventStream
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.dashboard.rendering import HEADERS
from ccat_workflow_manager.db.queries.feed import Place, head
from ccat_workflow_manager.db.queries.owners import visible_runs
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.views import changes
from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.threads import in_thread

log = logging.getLogger(__name__)

router = page_router()

_POLL_SECONDS = 0.4
_REST_SECONDS = 0.8
"""After a change: each page then asks once for all that happens meanwhile."""
_QUICK_SECONDS = 1.0
"""Answers that are kept no longer are computed anew before the viewers hear of a change."""
_SLOW_SECONDS = 5.5
"""When they hear of it again: all other answers are computed anew by then."""
_RAIL_SECONDS = 2.0
"""The rail is on every page, so it is asked for less often while much happens."""
_KEEP_ALIVE_SECONDS = 15.0
_MOST_TOPICS = 100
_MOST_VIEWERS = 1000
_RUN = "run:"
_SUMMARY, _RAIL, _EVERYTHING = "summary", "rail", "*"


@dataclass(eq=False, slots=True)
class _Viewer:
    topics: frozenset[str]
    changed: set[str] = field(default_factory=set)
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class _Reader:
    """Finds out what has changed since the last look."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._marks: changes.Others | None = None
        self._place: Place | None = None
        self._audited: Set[int] | None = None

    def look(self) -> set[str]:
        """The topics that have changed. The first look remembers how things are: all may have changed before it."""
        with self._database.read() as unit:
            marks = changes.others(unit)
            asked, self._audited = changes.audited_after(unit, self._audited)
            if self._place is None or self._marks is None:
                self._place, self._marks = head(unit), marks
                return {_EVERYTHING}
            run_ids, self._place = changes.events_after(unit, self._place)
        topics = {f"run:{run_id}" for run_id in run_ids if run_id is not None}
        if run_ids:
            topics |= {"runs", _SUMMARY, "events"}
        for name in asked:  # priorities and labels change without an event
            kind, _, run_id = name.partition("/")
            topics |= {"runs", f"{_RUN}{run_id}"} if kind == "runs" else set()
        for name in ("breakers", "backends", "pipelines", "holds"):
            if getattr(marks, name) != getattr(self._marks, name):
                topics |= {name, _SUMMARY}
        self._marks = marks
        return topics


class Live:
    """The viewers of one process. It reads only while there are any."""

    def __init__(self, context: Context, answers: Answers) -> None:
        self._context = context
        self._answers = answers
        self._viewers: set[_Viewer] = set()
        self._poller: asyncio.Task[None] | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self, topics: Iterable[str]) -> None:
        """`touch` from the thread of a handler."""
        if self._loop is not None and self._viewers:
            self._loop.call_soon_threadsafe(self.touch, frozenset(topics))

    def touch(self, topics: Iterable[str]) -> None:
        """Tell the viewers at once about a change that this process has made and that has no event."""
        names = {*topics, _RAIL} if _SUMMARY in topics else set(topics)
        self._touch(names)

    def _touch(self, names: Set[str]) -> None:
        for viewer in self._viewers:
            if wanted := names & (viewer.topics | {_EVERYTHING}):
                viewer.changed |= wanted
                viewer.woken.set()

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        self._closed = True
        for viewer in self._viewers:
            viewer.woken.set()
        if self._poller is not None:
            self._poller.cancel()

    async def stream(self, topics: frozenset[str]) -> AsyncGenerator[bytes, None]:
        """The text of one stream."""
        viewer = _Viewer(topics)
        self._viewers.add(viewer)
        self._loop = asyncio.get_running_loop()
        if self._poller is None or self._poller.done():
            self._poller = self._loop.create_task(self._poll())
        try:
            yield b": live\n\n"
            while not self._closed:
                try:
                    async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                        await viewer.woken.wait()
                except TimeoutError:
                    yield b": keep-alive\n\n"
                    continue
                viewer.woken.clear()
                names, viewer.changed = sorted(viewer.changed), set()
                if names:
                    yield f"event: changed\ndata: {json.dumps(names)}\n\n".encode()
        finally:
            self._viewers.discard(viewer)

    async def _poll(self) -> None:
        reader = _Reader(self._context.loop_database)
        again: dict[str, float] = {}
        rail_at, is_rail_due = 0.0, False
        while self._viewers and not self._closed:
            pause = _POLL_SECONDS
            try:
                topics, now = await in_thread(reader.look), time.monotonic()
                again |= dict.fromkeys(topics, now + _SLOW_SECONDS)
                due = {name for name, at in again.items() if at <= now}
                again = {name: at for name, at in again.items() if name not in due}
                due |= topics
                if due:
                    self._answers.forget(_QUICK_SECONDS)
                is_rail_due = is_rail_due or _SUMMARY in due
                if is_rail_due and rail_at <= now:
                    due.add(_RAIL)
                    rail_at, is_rail_due = now + _RAIL_SECONDS, False
                self._touch(due)
                pause = _REST_SECONDS if due else _POLL_SECONDS
            except WorkflowError as error:
                log.warning("changes cannot be read: %s", error.message)
            await asyncio.sleep(pause)

    @property
    def full(self) -> bool:
        return len(self._viewers) >= _MOST_VIEWERS


def visible_topics(context: Context, names: Collection[str], projects: Projects) -> frozenset[str]:
    """The topics that a reader of these projects may follow: none about a run of another project."""
    if projects is None:
        return frozenset(names)
    runs = {}
    for name in names:
        with suppress(ValueError):
            if name.startswith(_RUN):
                runs[UUID(name.removeprefix(_RUN))] = name
    with context.database.read() as unit:
        seen = visible_runs(unit, runs, projects)
    return frozenset([*(name for name in names if not name.startswith(_RUN)), *(runs[each] for each in seen)])


@router.get("/ui/live")
async def live(request: Request, who: Who, topics: str = "") -> Response:
    named = sorted(topics.split(","), key=lambda name: ":" in name)[:_MOST_TOPICS]
    names = await in_thread(visible_topics, request.app.state.context, named, who.projects)
    found: Live = request.app.state.live
    if found.full:
        return Response("too many viewers", 503, {"Retry-After": "10"}, "text/plain")
    return EventStream(request, found.stream(names), on_end=lambda: None, headers={**HEADERS, **STREAM_HEADERS})
