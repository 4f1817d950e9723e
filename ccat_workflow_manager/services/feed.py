"""Events for readers outside: pages from the database, and streams that share one reader of new events.

All streams of a process follow one list of the latest events (`_Tail`), which one poller extends while there are
streams. A stream holds nothing but its place in that list. Before it follows the list it reads what it missed from the
database. A client that reads so slowly that the list moves on without it is cut off; it comes back with the last id.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from typing import TypeVar

from ccat_workflow_manager.db.feed_epoch import signing_key
from ccat_workflow_manager.db.queries.feed import FeedEvent, FeedPage, Place, Selection, feed_page, head
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import ServiceUnavailable, WorkflowError
from ccat_workflow_manager.services.feed_cursor import Cursors

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERYTHING = Selection()
KEEP_ALIVE = b": keep-alive\n"
"""Without an empty line behind it: some clients take that for an event without data."""
TOO_SLOW = b": this client reads too slowly; come back with the last id\n\n"
_BATCH = 1000
_CATCH_UP_AT_ONCE = 4
_QUIET_TURNS = 20
_QUIET_FACTOR = 2.5
"""How much more slowly new events are looked for after so many looks in vain."""


@dataclass(frozen=True, slots=True)
class _Entry:
    event: FeedEvent
    text: bytes

    @property
    def place(self) -> Place:
        return self.event.place


class _Tail:
    """The latest events. `base` is the number of the first of them, `before` the place in front of it."""

    def __init__(self, before: Place, keep: int) -> None:
        self.before = before
        self.base = 0
        self._keep = keep
        self._entries: list[_Entry] = []
        self._joined: dict[int, bytes] = {}

    @property
    def end(self) -> int:
        return self.base + len(self._entries)

    @property
    def place(self) -> Place:
        return self._entries[-1].place if self._entries else self.before

    def extend(self, entries: Sequence[_Entry]) -> None:
        self._entries += entries
        self._joined.clear()
        if len(self._entries) > 2 * self._keep:
            gone = len(self._entries) - self._keep
            self.before = self._entries[gone - 1].place
            self.base += gone
            del self._entries[:gone]

    def number_behind(self, place: Place) -> int:
        """The number of the first event behind a place that is not in front of the list."""
        return self.base + bisect_right(self._entries, place, key=attrgetter("place"))

    def text(self, start: int, wanted: Selection) -> bytes:
        """The wanted events from this number on, ready to be sent."""
        entries = self._entries[start - self.base :]
        if wanted != EVERYTHING:
            return b"".join(entry.text for entry in entries if wanted.includes(entry.event))
        if start not in self._joined:
            self._joined[start] = b"".join(entry.text for entry in entries)
        return self._joined[start]


class Feed:
    """The events of one deployment, for one process. The streams belong to the event loop of its server."""

    def __init__(
        self,
        database: Database,
        source: str,
        *,
        most_streams: int,
        poll_seconds: float = 0.1,
        keep_alive_seconds: float = 15,
        keep: int = 10_000,
    ) -> None:
        """`keep` is how many events a slow client may lag behind."""
        self._database = database
        self._source = source
        self._most_streams = most_streams
        self._poll_seconds = poll_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self._keep = keep
        self._tail: _Tail | None = None
        self._poller: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False
        self._reader = ThreadPoolExecutor(1, "feed")
        self._catching_up = ThreadPoolExecutor(_CATCH_UP_AT_ONCE, "feed catch-up")
        self.streams = 0

    @cached_property
    def cursors(self) -> Cursors:
        return Cursors(signing_key(self._database))

    def page(self, after: Place, wanted: Selection, limit: int) -> FeedPage:
        with self._database.read() as unit:
            return feed_page(unit, self._source, after, wanted, limit)

    def cloud_event(self, event: FeedEvent) -> str:
        """The CloudEvent as JSON. Its id is also the cursor behind it."""
        return f'{{"id":"{self.cursors.encode(event.place)}",{event.json[1:]}'

    # --- streams -----------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Take the place of one more stream. Raises ServiceUnavailable if there are too many."""
        if self._closed:
            raise ServiceUnavailable("this manager is stopping")
        if self.streams >= self._most_streams:
            raise ServiceUnavailable(f"this manager has {self.streams} event streams, its most (EVENT_STREAMS)")
        self.streams += 1

    def leave(self) -> None:
        """Give the place back. Without streams nothing is polled."""
        self.streams -= 1
        if self.streams == 0 and self._poller is not None:
            self._poller.cancel()
            self._poller = self._tail = None

    def close(self) -> None:
        """End all streams in order. To be called in the event loop of the server."""
        self._closed = True
        self._wake()
        if self._poller is not None:
            self._poller.cancel()
        self._reader.shutdown(wait=False)
        self._catching_up.shutdown(wait=False)

    async def start(self) -> Place:
        """Have new events followed. Returns a place behind which none is missed."""
        if self._tail is None:
            place = await self._in(self._reader, self._read_head)
            if self._tail is None:  # no other stream was quicker
                self._tail = _Tail(place, self._keep)
                self._poller = asyncio.get_running_loop().create_task(self._poll(self._tail))
        return self._tail.place

    async def stream(self, after: Place, wanted: Selection) -> AsyncGenerator[bytes, None]:
        """The text of the stream behind a place, between `enter` and `leave`. It ends only at a stop or if it lags."""
        tail = self._tail
        assert tail is not None, "start() comes first"
        while not self._closed and after < (before := tail.before):
            page = await self._in(self._catching_up, partial(self.page, after, wanted, _BATCH))
            # What is behind the beginning of the list is sent from the list, or it would be sent twice.
            yield b"".join(self._text(event) for event in page.events if event.place <= before)
            after = min(page.place, before) if page.more else before
        number = tail.number_behind(after)
        while not self._closed:
            if number < tail.base:
                yield TOO_SLOW
                return
            if number < tail.end:
                # The client may come from another manager, whose list was longer.
                start, number = max(number, tail.number_behind(after)), tail.end
                if text := tail.text(start, wanted):
                    yield text
                continue
            if not await self._wait():
                yield KEEP_ALIVE

    async def _wait(self) -> bool:
        """Wait for new events or the end. Returns False if neither came for a while."""
        changed = self._changed
        try:
            async with asyncio.timeout(self._keep_alive_seconds):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _poll(self, tail: _Tail) -> None:
        trouble, in_vain = "", 0
        while True:
            in_vain += 1
            try:
                page = await self._in(self._reader, partial(self.page, tail.place, EVERYTHING, _BATCH))
            except WorkflowError as error:
                if error.message != trouble:
                    log.warning("event streams: %s", error.message)
                trouble = error.message
            else:
                trouble = ""
                if page.events:
                    in_vain = 0
                    tail.extend([_Entry(event, self._text(event)) for event in page.events])
                    self._wake()
                if page.more:
                    continue
            await asyncio.sleep(self._poll_seconds * (_QUIET_FACTOR if in_vain > _QUIET_TURNS else 1))

    def _read_head(self) -> Place:
        self.cursors  # noqa: B018  reads its key from the database, which the event loop must not do
        with self._database.read() as unit:
            return head(unit)

    def _text(self, event: FeedEvent) -> bytes:
        return f"id: {self.cursors.encode(event.place)}\ndata: {self.cloud_event(event)}\n\n".encode()

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
