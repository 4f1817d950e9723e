"""Events in the order of readers: nothing that commits late is passed over, no stream loses or repeats anything."""

from __future__ import annotations

import asyncio
import random
import threading
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, aclosing
from uuid import UUID, uuid4

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db import feed_epoch, migrate
from ccat_workflow_manager.db.queries.feed import BEGIN, EVERYTHING, FeedEvent, FeedPage, Place, Selection
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable
from ccat_workflow_manager.services.feed import GZIP_BEGIN, KEEP_ALIVE, TOO_SLOW, Feed, compressed
from ccat_workflow_manager.services.feed_cursor import BadCursor, Cursors
from tests.support.fixtures_store import ContextMaker
from tests.support.waiting import PATIENCE

_INSERT = """
INSERT INTO events (step_run_id, run_id, event, to_status, attempt, actor) VALUES (:id, :id, :event, 'X', 0, :name)
"""
_INSERTS = 2
_PAUSE = threading.Event()
"""Never set: to wait for it is a pause."""


def insert(unit: UnitOfWork, name: str, event: str = "created", run_id: UUID | None = None) -> None:
    unit.execute(_INSERT, {"id": run_id or uuid4(), "event": event, "name": name})


def names(feed: Feed, after: Place = BEGIN, wanted: Selection = EVERYTHING) -> list[str]:
    """Which events a page has: what `insert` called them."""
    return [event.json.partition('"actor":"')[2].partition('"')[0] for event in feed.page(after, wanted, 1000).events]


def test_what_commits_late_is_not_passed_over(context: Context) -> None:
    feed, database = context.feed, context.database
    with ExitStack() as late:
        unit = late.enter_context(database.begin("commit.test"))
        insert(unit, "late")
        with database.begin("commit.test") as other:
            insert(other, "early")
        seen = feed.page(BEGIN, EVERYTHING, 10)
        assert (seen.events, seen.more) == ([], False)
    assert names(feed, seen.place) == ["late", "early"]


def test_pages_lead_from_one_to_the_next(context: Context) -> None:
    run_id = uuid4()
    with context.database.begin("commit.test") as unit:
        for number in range(25):
            insert(unit, str(number), "failed" if number % 5 == 0 else "created", run_id if number < 3 else None)
    feed, place = context.feed, BEGIN
    found: list[FeedEvent] = []
    while True:
        page = feed.page(place, Selection(events=frozenset(["failed"])), 2)
        found += page.events
        place = page.place
        if not page.more:
            break
    assert [event.event for event in found] == ["failed"] * 5
    assert names(feed, place) == []
    assert [event.run_id for event in feed.page(BEGIN, EVERYTHING, 3).events] == [run_id] * 3


def test_only_cursors_that_were_handed_out_are_taken_back() -> None:
    cursors = Cursors(b"k" * 32)
    place = Place(123_456, 2**63 - 1)
    text = cursors.encode(place)
    assert cursors.decode(text) == place
    changed = ("A" if text[5] != "A" else "B").join([text[:5], text[6:]])
    for bad in (changed, text[:-1], text + "=", text[:-4], "", "é" * 32, "!" * 32, Cursors(b"x" * 32).encode(place)):
        with pytest.raises(BadCursor):
            cursors.decode(bad)


def test_positions_go_on_behind_those_of_another_server(databases: object, context: Context) -> None:
    url = databases.create()  # type: ignore[attr-defined]
    database = Database(url)
    migrate.upgrade(database)
    feed = Feed(database, "/test", most_streams=1)
    with database.begin("commit.test") as unit:
        insert(unit, "dumped")
        # The server that the dump was made on had written more than this one.
        unit.execute("UPDATE events SET position = position + 1000000")
        unit.execute("UPDATE feed SET server = 'another/1'")
    with pytest.raises(ConfigurationError, match="ccat-wm db upgrade"):
        migrate.require_current(database)
    migrate.upgrade(database)
    migrate.require_current(database)
    (dumped,) = feed.page(BEGIN, EVERYTHING, 10).events
    with database.begin("commit.test") as unit:
        insert(unit, "new")
    assert names(feed, dumped.place) == ["new"]
    with database.read() as unit:
        assert not feed_epoch.was_moved(unit)
    database.close()
    databases.drop(url)  # type: ignore[attr-defined]


# --- streams ---------------------------------------------------------------------------------------------------------


async def ids(texts: AsyncIterator[bytes], most: int) -> list[str]:
    """The ids of the next events of a stream."""
    found: list[str] = []
    async for text in texts:
        found += [line[4:] for line in text.decode().splitlines() if line.startswith("id: ")]
        if len(found) >= most:
            break
    return found


class Reader:
    """A client that connects again and again, each time through another manager, and reads a few events each time."""

    def __init__(self, feeds: Sequence[Feed], chance: random.Random, most: int) -> None:
        self._feeds = feeds
        self._chance = chance
        self._most = most
        self.seen: list[str] = []

    async def read(self, total: int) -> None:
        while len(self.seen) < total:
            feed = self._chance.choice(self._feeds)
            feed.enter()
            try:
                await feed.start()
                place = feed.cursors.decode(self.seen[-1]) if self.seen else BEGIN
                async with aclosing(feed.stream(place, EVERYTHING)) as texts:
                    most = min(self._chance.randint(1, self._most), total - len(self.seen))
                    self.seen += (await ids(texts, most))[:most]  # the rest is lost on the way
            finally:
                feed.leave()


def write_with_pauses(database: Database, writer: int, transactions: int) -> None:
    chance = random.Random(writer)
    for number in range(transactions):
        with database.begin("commit.test") as unit:
            for part in range(_INSERTS):
                insert(unit, f"{writer}-{number}-{part}")
                _PAUSE.wait(chance.random() * 0.03)


def torture(contexts: Sequence[Context], writers: int, transactions: int, readers: int, *, most: int = 20) -> None:
    """Writers that pause between insert and commit, and readers that connect again after at most so many events."""
    databases = [Database(contexts[0].database.url, pool_size=1) for _ in range(writers)]
    threads = [
        threading.Thread(target=write_with_pauses, args=(database, number, transactions))
        for number, database in enumerate(databases)
    ]
    expected = writers * transactions * _INSERTS
    feeds = [context.feed for context in contexts]
    clients = [Reader(feeds, random.Random(1000 + number), most) for number in range(readers)]

    async def read() -> None:
        async with asyncio.timeout(5 * PATIENCE):
            await asyncio.gather(*(client.read(expected) for client in clients))

    for thread in threads:
        thread.start()
    asyncio.run(read())
    for thread, database in zip(threads, databases, strict=True):
        thread.join()
        database.close()
    stored = feeds[0].page(BEGIN, EVERYTHING, 10 * expected).events
    wanted = [feeds[0].cursors.encode(event.place) for event in stored]
    assert len(set(wanted)) == expected
    for client in clients:
        assert client.seen == wanted


def test_streams_lose_nothing_and_repeat_nothing(make_context: ContextMaker) -> None:
    torture([make_context(), make_context()], writers=8, transactions=8, readers=4)


@pytest.mark.slow
def test_streams_lose_nothing_and_repeat_nothing_with_many_writers(make_context: ContextMaker) -> None:
    torture([make_context(), make_context()], writers=50, transactions=30, readers=20, most=300)


def test_a_slow_reader_is_cut_off_and_others_go_on(context: Context) -> None:
    feed = Feed(context.database, "/test", most_streams=2, keep=10, poll_seconds=0.01)

    async def read() -> tuple[list[bytes], int]:
        feed.enter()
        feed.enter()
        place = await feed.start()
        slow, quick = feed.stream(place, EVERYTHING), feed.stream(place, EVERYTHING)
        await asyncio.to_thread(add, 1)
        first = await anext(slow)
        for number in range(10):
            await asyncio.to_thread(add, 10)
            await ids(quick, 11 if number == 0 else 10)
        rest = [text async for text in slow]
        feed.close()
        return [first, *rest], first.count(b"id: ")

    def add(count: int) -> None:
        with context.database.begin("commit.test") as unit:
            for number in range(count):
                insert(unit, str(number))

    texts, count = asyncio.run(asyncio.wait_for(read(), PATIENCE))
    assert count == 1
    assert texts[-1] == TOO_SLOW
    assert len(texts) == 2


def test_a_compressed_stream_has_the_text_of_the_others(context: Context) -> None:
    feed = Feed(context.database, "/test", most_streams=2, poll_seconds=0.01)

    async def read() -> tuple[bytes, bytes]:
        feed.enter()
        await feed.start()
        zipped, others = feed.stream(BEGIN, EVERYTHING, compressed), feed.stream(BEGIN, EVERYTHING)
        texts = [b"", b""]
        for number in range(3):
            await asyncio.to_thread(add, number)
            while texts[0].count(b"data: ") <= number:
                texts[0] += await anext(others)
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
        unpack.decompress(GZIP_BEGIN)
        while len(texts[1]) < len(texts[0]):
            texts[1] += unpack.decompress(await anext(zipped))
        feed.close()
        return texts[0], texts[1]

    def add(number: int) -> None:
        with context.database.begin("commit.test") as unit:
            insert(unit, str(number))

    plain, unpacked = asyncio.run(asyncio.wait_for(read(), PATIENCE))
    assert plain == unpacked
    assert plain.count(b"data: ") == 3


def test_a_stream_that_wants_none_of_many_events_shows_that_it_is_alive(context: Context) -> None:
    feed = Feed(context.database, "/test", most_streams=1, poll_seconds=0.01, keep_alive_seconds=0.2)

    async def read() -> bytes:
        feed.enter()
        texts = feed.stream(await feed.start(), Selection(events=frozenset(["failed"])))
        told = asyncio.ensure_future(anext(texts))
        while not told.done():
            await asyncio.to_thread(add)
            await asyncio.wait([told], timeout=0.02)
        feed.close()
        return told.result()

    def add() -> None:
        with context.database.begin("commit.test") as unit:
            insert(unit, "other")

    assert asyncio.run(asyncio.wait_for(read(), PATIENCE)) == KEEP_ALIVE


def test_streams_of_single_runs_have_the_events_of_theirs(context: Context) -> None:
    feed = Feed(context.database, "/test", most_streams=2, poll_seconds=0.01)
    runs = [uuid4(), uuid4()]

    def add(numbers: range) -> None:
        with context.database.begin("commit.test") as unit:
            for number in numbers:
                insert(unit, str(number), run_id=runs[number % 2] if number % 3 else None)

    async def read() -> list[list[str]]:
        feed.enter()
        streams = [feed.stream(await feed.start(), Selection(run_id=run)) for run in runs]
        seen: list[list[str]] = [[], []]
        for begin in (0, 12, 24):
            await asyncio.to_thread(add, range(begin, begin + 12))
            for found, stream in zip(seen, streams, strict=True):
                found.extend(await ids(stream, 4))
        feed.close()
        return seen

    seen = asyncio.run(asyncio.wait_for(read(), PATIENCE))
    events = feed.page(BEGIN, EVERYTHING, 1000).events
    expected = [[feed.cursors.encode(each.place) for each in events if each.run_id == run] for run in runs]
    assert seen == expected
    assert [len(each) for each in seen] == [12, 12]


def test_streams_end_where_new_events_cannot_be_read_and_the_next_one_begins_anew(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(context.database, "/test", most_streams=2, poll_seconds=0.01)
    page = feed.page

    def fail(after: Place, wanted: Selection, limit: int) -> FeedPage:
        raise LookupError("a fault of the program")

    def add() -> None:
        with context.database.begin("commit.test") as unit:
            insert(unit, "one")

    async def read() -> tuple[list[bytes], list[str]]:
        feed.enter()
        stream = feed.stream(await feed.start(), EVERYTHING)
        monkeypatch.setattr(feed, "page", fail)
        ended = [text async for text in stream]
        monkeypatch.setattr(feed, "page", page)
        following = feed.stream(await feed.start(), EVERYTHING)
        await asyncio.to_thread(add)
        found = await ids(following, 1)
        feed.close()
        return ended, found

    ended, found = asyncio.run(asyncio.wait_for(read(), PATIENCE))
    assert (ended, len(found)) == ([], 1)


def test_there_are_not_more_streams_than_allowed_and_none_after_the_end(context: Context) -> None:
    feed = Feed(context.database, "/test", most_streams=1)
    feed.enter()
    with pytest.raises(ServiceUnavailable, match="EVENT_STREAMS"):
        feed.enter()
    feed.leave()

    async def ends() -> list[bytes]:
        feed.enter()
        place = await feed.start()
        stream = feed.stream(place, EVERYTHING)
        asyncio.get_running_loop().call_soon(feed.close)
        return [text async for text in stream]

    assert asyncio.run(asyncio.wait_for(ends(), PATIENCE)) == []
    with pytest.raises(ServiceUnavailable):
        feed.enter()
