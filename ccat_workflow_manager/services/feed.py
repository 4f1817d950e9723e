"""Events for readers outside: pages from the database, and streams that share one reader of new events.

All streams of a process follow one list of the latest events (`_Tail`), which one poller extends while there are
streams. A stream holds nothing but its place in that list. Before it follows the list it reads what it missed from the
database. A client that reads so slowly that the list moves on without it is cut off; it comes back with the last id.

What many streams send is made once, also where it is compressed: each piece is a block of gzip that refers to none
before it. The poller rests for a multiple of the time that it takes to wake all streams.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from operator import attrgetter
from typing import NamedTuple, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

from ccat_workflow_manager.db.feed_epoch import signing_key
from ccat_workflow_manager.db.queries.feed import EVERYTHING, FeedEvent, FeedPage, Place, Selection, feed_page, head
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import ServiceUnavailable, WorkflowError
from ccat_workflow_manager.services.feed_cursor import Cursors

log = logging.getLogger(__name__)

T = TypeVar("T")

KEEP_ALIVE = b": keep-alive\n"
"""Without an empty line behind it: some clients take that for an event without data."""
TOO_SLOW = b": this client reads too slowly; come back with the last id\n\n"
GZIP_BEGIN = bytes.fromhex("1f8b08000000000000ff")
"""In front of the first compressed piece of a stream."""
_BATCH = 1000
_LEAST_NEW, _MOST_NEW = 200, 2000
"""So many new events are read at once."""
_CATCH_UP_AT_ONCE = 4
_QUIET_TURNS = 20
_QUIET_FACTOR = 2.5
"""How much more slowly new events are looked for after so many looks in vain."""
_REST = 12
"""The poller rests so many times as long as it worked, while much is new: it comes later, and slows no writer."""
_REST_IF_LATE, _PATIENT_SECONDS = 3, 10.0
"""If it has not come to the end of the events for so long, it rests less: the delay must not grow for ever."""
_MOST_TEXTS = 4
_READ_FACTOR = 2
"""PostgreSQL needs as long for the reading as this process."""
_WAKE_SECONDS = 0.05
"""So long the event loop may be busy with the streams at a time; if it is longer, they get less at a time."""


def compressed(text: bytes) -> bytes:
    """A piece of a stream as a block of gzip, which fits behind any other."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH)


def plain(text: bytes) -> bytes:
    return text


Pack = Callable[[bytes], bytes]
"""`compressed` or `plain`."""


class _Entry(NamedTuple):
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
        self.end = 0
        self.kinds: WeakValueDictionary[tuple[Selection, Pack], _Kind] = WeakValueDictionary()
        self._fresh_from = 0
        self._fresh_of_runs: dict[UUID | None, list[_Entry]] = {}
        self.is_over = False
        """Nothing extends it any more."""

    @property
    def place(self) -> Place:
        return self._entries[-1].place if self._entries else self.before

    def extend(self, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        self._fresh_from, self._fresh_of_runs = self.end, {}
        for entry in entries:
            self._fresh_of_runs.setdefault(entry.event.run_id, []).append(entry)
        self._entries += entries
        self.end += len(entries)
        if len(self._entries) > 2 * self._keep:
            gone = len(self._entries) - self._keep
            self.before = self._entries[gone - 1].place
            self.base += gone
            del self._entries[:gone]

    def number_behind(self, place: Place) -> int:
        """The number of the first event behind a place that is not in front of the list."""
        return self.base + bisect_right(self._entries, place, key=attrgetter("place"))

    def behind(self, number: int, run_id: UUID | None) -> Sequence[_Entry]:
        """From this number to the end: what there is, or at least all of one run."""
        if run_id is not None and number == self._fresh_from:
            return self._fresh_of_runs.get(run_id, ())
        return self._entries[number - self.base :]


class _Kind:
    """All streams that send the same in the same way: each text is made once for them."""

    def __init__(self, wanted: Selection, pack: Pack) -> None:
        self._wanted = wanted
        self._pack = pack
        self._end = 0
        self._made: dict[int, bytes] = {}

    def text(self, tail: _Tail, number: int) -> bytes:
        """The wanted events from this number to the end, ready to be sent."""
        if self._end != tail.end or len(self._made) >= _MOST_TEXTS:
            self._made, self._end = {}, tail.end
        text = self._made.get(number)
        if text is None:
            wanted, entries = self._wanted, tail.behind(number, self._wanted.run_id)
            text = b"".join(each.text for each in entries if wanted == EVERYTHING or wanted.includes(each.event))
            text = self._made[number] = self._pack(text) if text else b""
        return text


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
        self.source = source
        self._most_streams = most_streams
        self._poll_seconds = poll_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self._keep = keep
        self._tail: _Tail | None = None
        self._poller: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._beat = 0
        """How often the streams have been told to show that they are alive."""
        self._closed = False
        self._reader = ThreadPoolExecutor(1, "feed")
        self._catching_up = ThreadPoolExecutor(_CATCH_UP_AT_ONCE, "feed catch-up")
        self.streams = 0

    @cached_property
    def cursors(self) -> Cursors:
        return Cursors(signing_key(self._database))

    def page(self, after: Place, wanted: Selection, limit: int) -> FeedPage:
        with self._database.read() as unit:
            return feed_page(unit, self.source, after, wanted, limit)

    def cloud_event(self, event: FeedEvent) -> str:
        """The CloudEvent as JSON. Its id is also the cursor behind it."""
        return f'{{"id":"{self.cursors.encode(event.place)}",{event.json}'

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

    async def stream(self, after: Place, wanted: Selection, pack: Pack = plain) -> AsyncGenerator[bytes, None]:
        """The text of the stream behind a place, between `enter` and `leave`. It ends only at a stop or if it lags."""
        tail = self._tail
        if tail is None:  # it has ended since `start`
            return
        while not (self._closed or tail.is_over) and after < (before := tail.before):
            text, after = await self._in(self._catching_up, partial(self._missed, after, before, wanted, pack))
            yield text
        kind = tail.kinds.setdefault((wanted, pack), _Kind(wanted, pack))
        number, beat = tail.number_behind(after), self._beat
        ahead: Place | None = after
        while not (self._closed or tail.is_over):
            if number < tail.base:
                yield pack(TOO_SLOW)
                return
            if number < tail.end:
                if ahead is not None:
                    # The client may come from another manager, whose list was longer.
                    number = max(number, tail.number_behind(ahead))
                    ahead = ahead if ahead > tail.place else None
                start, number = number, tail.end
                if text := kind.text(tail, start):
                    beat = self._beat
                    yield text
            elif beat != self._beat:
                beat = self._beat
                yield pack(KEEP_ALIVE)
            else:
                await self._changed.wait()

    def _missed(self, after: Place, before: Place, wanted: Selection, pack: Pack) -> tuple[bytes, Place]:
        """The text of events in front of the list, and how far it goes. The rest is sent from the list."""
        page = self.page(after, wanted, _BATCH)
        text = b"".join(self._entry(event).text for event in page.events if event.place <= before)
        return pack(text) if text else b"", min(page.place, before) if page.more else before

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _poll(self, tail: _Tail) -> None:
        """Extend the list. Where that fails for good all streams end in order, and the next one begins a new list."""
        try:
            await self._extend(tail)
        finally:
            tail.is_over = True
            if self._tail is tail:
                self._tail = self._poller = None
            self._wake()

    async def _extend(self, tail: _Tail) -> None:
        loop = asyncio.get_running_loop()
        trouble, in_vain, most, beat_at = "", 0, _MOST_NEW, loop.time() + self._keep_alive_seconds
        last_in_time = loop.time()
        while True:
            entries, read = list[_Entry](), 0.0
            try:
                entries, read = await self._in(self._reader, partial(self._read_new, tail.place, most))
                trouble = ""
            except WorkflowError as error:
                if error.message != trouble:
                    log.warning("event streams: %s", error.message)
                trouble = error.message
            tail.extend(entries)
            in_vain = 0 if entries else in_vain + 1
            if is_beat := loop.time() >= beat_at:
                self._beat, beat_at = self._beat + 1, loop.time() + self._keep_alive_seconds
            woken = time.thread_time()
            if entries or is_beat:
                self._wake()
                await asyncio.sleep(0)  # all streams have their turn before this goes on
            sent = time.thread_time() - woken
            if len(entries) < most:
                last_in_time = loop.time()
            factor = _REST if loop.time() - last_in_time < _PATIENT_SECONDS else _REST_IF_LATE
            most = max(_LEAST_NEW, most // 2) if sent > _WAKE_SECONDS else min(_MOST_NEW, most + _LEAST_NEW)
            pause = self._poll_seconds * (_QUIET_FACTOR if in_vain > _QUIET_TURNS else 1)
            rest = factor * (sent + _READ_FACTOR * read)
            if len(entries) < _LEAST_NEW:
                rest = min(rest, self._poll_seconds * _QUIET_FACTOR)
            await asyncio.sleep(max(pause, rest))

    def _read_new(self, after: Place, most: int) -> tuple[list[_Entry], float]:
        """New events, and the time on a core that they took here."""
        began = time.thread_time()
        entries = [self._entry(event) for event in self.page(after, EVERYTHING, most).events]
        return entries, time.thread_time() - began

    def _read_head(self) -> Place:
        self.cursors  # noqa: B018  reads its key from the database, which the event loop must not do
        with self._database.read() as unit:
            return head(unit)

    def _entry(self, event: FeedEvent) -> _Entry:
        cursor = self.cursors.encode(event.place)
        return _Entry(event, f'id: {cursor}\ndata: {{"id":"{cursor}",{event.json}\n\n'.encode())

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
