"""Many readers in one process: streams of events that are held open, or open dashboards.

    python -m tests.bench.audience PORT streams COUNT PATH [HEADER...]
    python -m tests.bench.audience PORT dashboards COUNT PATH...

It writes `ready` when all are open. A line on its input asks for what came since the last one: it answers with JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_TIME = re.compile(rb'"time" ?: ?"([^"]+)Z"')
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_ETAG = re.compile(rb"\r\netag: ([^\r]+)", re.IGNORECASE)
_SECTION = re.compile(r'<\w+[^>]*? id="([\w-]+)"[^>]*? data-live="([^"]+)" data-src="([^"]+)"')
SAMPLED = 20
"""So many streams are read; of the others only the bytes are counted."""
_GZIP = zlib.MAX_WBITS | 16


@dataclass
class Seen:
    """What came since the last question."""

    counts: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    cpu_before: float = 0.0

    def told(self) -> str:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        told = json.dumps({"counts": {**self.counts, "cpu": cpu - self.cpu_before}, "delays": self.delays})
        self.counts, self.delays, self.cpu_before = Counter(), [], cpu
        return told


class _Line(asyncio.Protocol):
    """One connection. `take` is given what comes."""

    def __init__(self, take: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._take, self._lost = take, lost
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()


async def _open(port: int, take: Callable[[bytes], None], lost: Callable[[], None]) -> _Line:
    _, line = await asyncio.get_running_loop().create_connection(lambda: _Line(take, lost), "127.0.0.1", port)
    return line


def _get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


# --- streams of events -----------------------------------------------------------------------------------------------


class _Stream:
    """A stream. One that is sampled notes how long its oldest event took, in each piece that comes."""

    def __init__(self, seen: Seen, sampled: bool) -> None:
        self._seen, self._sampled = seen, sampled
        self.begun = asyncio.get_running_loop().create_future()
        self._unzip = zlib.decompressobj(_GZIP)
        self._head, self._rest = bytearray(), bytearray()
        self._plain = False

    def take(self, data: bytes) -> None:
        self._seen.counts["pieces"] += 1
        self._seen.counts["bytes"] += len(data)
        if not self.begun.done():
            self._head += data
            head, _, rest = bytes(self._head).partition(b"\r\n\r\n")
            data = rest
            if not data:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.begun.set_exception(RuntimeError(f"a stream was refused: {head[:200]!r}"))
                return
            self._plain = b"content-encoding: gzip" not in head.lower()
            self.begun.set_result(None)
        if self._sampled:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Note how many events came, and how long the first of them took since PostgreSQL began their transaction."""
        now = time.time()
        text = b"".join(self._chunks(data))
        self._seen.counts["events"] += text.count(b"data: {")
        if (found := _TIME.search(text)) is not None:
            self._seen.delays.append(now - datetime.fromisoformat(f"{found[1].decode()}+00:00").timestamp())

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        """The pieces of the body that are whole by now, unpacked."""
        self._rest += data
        while (at := self._rest.find(b"\r\n")) >= 0:
            end = at + 2 + int(self._rest[:at], 16)
            if len(self._rest) < end + 2:
                return
            piece = bytes(self._rest[at + 2 : end])
            del self._rest[: end + 2]
            yield piece if self._plain else self._unzip.decompress(piece)

    def lost(self) -> None:
        self._seen.counts["lost"] += 1


async def _streams(port: int, seen: Seen, count: int, path: str, *headers: str) -> None:
    request = _get(path, "Accept: text/event-stream", *headers)
    for number in range(count):
        stream = _Stream(seen, sampled=number % (count // SAMPLED or 1) == 0)
        (await _open(port, stream.take, stream.lost)).transport.write(request)
        await stream.begun


# --- dashboards ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Section:
    """A part of a page, as `live.js` has it."""

    topics: frozenset[str]
    src: str
    etag: str = ""
    busy: bool = False
    again: bool = False


class _Requests:
    """One connection for requests, as a browser keeps some open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._line: _Line | None = None
        self._lock = asyncio.Lock()
        self._data = bytearray()
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    async def get(self, path: str, *headers: str) -> tuple[bytes, bytes]:
        """The head and the body of the answer."""
        async with self._lock:
            if self._line is None or self._line.transport.is_closing():
                self._line = await _open(self._port, self._take, self._lost)
            self._data.clear()
            self._answer = asyncio.get_running_loop().create_future()
            self._line.transport.write(_get(path, "Accept-Encoding: gzip", *headers))
            return await self._answer

    def _take(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and self._answer is not None and len(body) >= (int(length[1]) if length else 0):
            self._answer.set_result((bytes(head), bytes(body)))
            self._answer = None

    def _lost(self) -> None:
        self._line = None
        if self._answer is not None:
            self._answer.set_exception(ConnectionError("the server hung up"))
            self._answer = None


class _Dashboard:
    """An open page: its parts and its live stream."""

    def __init__(self, port: int, seen: Seen, path: str) -> None:
        self._port, self._seen, self._path = port, seen, path
        self._lines = [_Requests(port), _Requests(port)]
        self._sections: list[_Section] = []
        self._tasks = set[asyncio.Task[None]]()
        self._begun = asyncio.Event()

    async def open(self) -> None:
        head, body = await self._lines[0].get(self._path, "Accept: text/html")
        text = (zlib.decompress(body, _GZIP) if b"content-encoding: gzip" in head.lower() else body).decode()
        for _, topics, src in _SECTION.findall(text):
            self._sections.append(_Section(frozenset(topics.split()), src.replace("&amp;", "&")))
        topics = ",".join(sorted(set().union(*(each.topics for each in self._sections))))
        if not head.startswith(b"HTTP/1.1 200") or not topics:
            raise RuntimeError(f"{self._path} is no live page: {head[:100]!r}")
        line = await _open(self._port, self._hear, self._lost)
        line.transport.write(_get(f"/ui/live?topics={topics}", "Accept: text/event-stream"))
        await self._begun.wait()

    def _lost(self) -> None:
        self._seen.counts["lost"] += 1

    def _hear(self, data: bytes) -> None:
        self._begun.set()
        for found in re.finditer(rb"data: (\[.*\])", data):
            self._seen.counts["told"] += 1
            names = frozenset(json.loads(found[1]))
            for at, section in enumerate(self._sections):
                if section.topics & names:
                    self._start(self._refresh(section, self._lines[at % 2]))

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self, section: _Section, line: _Requests) -> None:
        if section.busy:
            section.again = True
            return
        section.busy = True
        with suppress(ConnectionError):
            headers = (f"If-None-Match: {section.etag}",) if section.etag else ()
            head, body = await line.get(section.src, *headers)
            self._seen.counts[f"status_{head[9:12].decode()}"] += 1
            self._seen.counts["bytes"] += len(body)
            if (found := _ETAG.search(head)) is not None:
                section.etag = found[1].decode()
        section.busy = False
        if section.again:
            section.again = False
            asyncio.get_running_loop().call_later(0.5, lambda: self._start(self._refresh(section, line)))


async def _dashboards(port: int, seen: Seen, count: int, *paths: str) -> None:
    for number in range(count):
        await _Dashboard(port, seen, paths[number % len(paths)]).open()


# --- the process, and its side in the bench ---------------------------------------------------------------------------


async def _serve(port: int, kind: str, count: int, more: list[str]) -> None:
    seen = Seen()
    if kind == "streams":
        await _streams(port, seen, count, *more)
    else:
        await _dashboards(port, seen, count, *more)
    print("ready", flush=True)
    questions = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    while await questions.readline():
        print(seen.told(), flush=True)


class Audience:
    """The readers, for the bench."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def wait_ready(self) -> None:
        if self._read().strip() != "ready":
            raise RuntimeError("the readers did not come")

    def seen(self) -> Seen:
        """What came since the last call. All are still there, or the figures mean nothing."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told = json.loads(self._read())
        seen = Seen(Counter(told["counts"]), told["delays"])
        if seen.counts["lost"]:
            raise RuntimeError(f"{seen.counts['lost']} readers lost their connection")
        return seen


@contextmanager
def audience(port: int, kind: str, count: int, *paths: str) -> Iterator[Audience]:
    """So many readers, from when all are there."""
    command = [sys.executable, "-m", __name__, str(port), kind, str(count), *paths]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        found = Audience(process)
        found.wait_ready()
        found.seen()
        yield found
    finally:
        process.kill()
        process.communicate(timeout=30)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
