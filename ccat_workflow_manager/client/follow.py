"""Reads what grows: the log of a step run, and the stream of events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

from ccat_workflow_manager.client.connection import ApiRefused
from ccat_workflow_manager.client.transport import Request, Transport
from ccat_workflow_manager.errors import ServiceUnavailable

BOTH = "both"
STREAMS = ("stdout", "stderr")
EVENT_STREAM = "text/event-stream"
SILENT_SECONDS = 60.0
"""The service says something every 15 seconds."""
_RECONNECT_SECONDS = 1.0
_LOST_SECONDS = 60.0
"""So long a connection that was lost is made again, also by a client without patience: a manager may restart."""


ATTEMPT, GAP = "attempt", "gap"


class LogPiece(NamedTuple):
    """A piece of a log: the text of a stream, the number of the attempt that comes next, or word of a missing part."""

    kind: str
    """A stream, ATTEMPT or GAP."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """The log of a step run: of one stream or of both, of the newest attempt or of another one."""

    api: Transport
    step_run_id: str
    stream: str = STREAMS[0]
    attempt: int | None = None
    tail: int | None = None

    @property
    def _path(self) -> str:
        return f"/step-runs/{self.step_run_id}/log"

    async def read(self) -> AsyncGenerator[LogPiece, None]:
        """What there is now."""
        for stream in STREAMS if self.stream == BOTH else (self.stream,):
            query: dict[str, Any] = {"attempt": self.attempt, "stream": stream}
            query |= {"offset": 0} if self.tail is None else {"tail": self.tail}
            while True:
                response = await self.api.send(Request("GET", self._path, query))
                if response.headers.get("X-Log-Truncated") == "true":
                    yield LogPiece(GAP)
                if response.text:
                    yield LogPiece(stream, response.text)
                end, size = _number(response, "X-Log-Next-Offset"), _number(response, "X-Log-Size")
                if end is None or size is None or end >= size or end == query.get("offset"):
                    break
                query = {"attempt": self.attempt, "stream": stream, "offset": end}

    async def follow(self) -> AsyncGenerator[LogPiece, None]:
        """All of it as it grows, until the step run is finished. A connection that is lost is made again."""
        query = {"attempt": self.attempt, "stream": self.stream, "tail": self.tail, "follow": True}
        place: str | None = None
        deadline, shown = time.monotonic() + self.api.patience, False
        while True:
            headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": place} if place else {})}
            try:
                request = Request("GET", self._path, query, headers=headers, timeout=SILENT_SECONDS)
                async with self.api.stream(request) as (_, chunks):
                    if shown and place is None:
                        # Only its backend has this log: it comes from its beginning again.
                        yield LogPiece(GAP)
                    async for message in messages(chunks):
                        deadline = time.monotonic() + max(self.api.patience, _LOST_SECONDS)
                        if message.kind == "end":
                            _check_end(message.data or "{}")
                            return
                        if message.data is not None:
                            place, shown = message.id or place, True
                            yield LogPiece(message.kind or self.stream, message.data)
            except ServiceUnavailable:
                if time.monotonic() > deadline:
                    raise
            await self.api.pause(_RECONNECT_SECONDS)


def _check_end(data: str) -> None:
    """Raise ApiRefused if the log ended because it can no longer be read."""
    end = json.loads(data)
    if end.get("problem"):
        raise ApiRefused(httpx.codes.NOT_FOUND, str(end["problem"]))


def _number(response: httpx.Response, header: str) -> int | None:
    value = response.headers.get(header, "")
    return int(value) if value.isdecimal() else None


async def events(api: Transport, after: str | None, query: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """Events without end. The id of the last one goes along when the connection is made again.

    Raises ServiceUnavailable if that fails for as long as the client is patient, and at least for a minute.
    """
    last, first, answered = after, True, time.monotonic()
    while True:
        headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": last} if last and not first else {})}
        given = {**query, "after": after if first else None}
        asked = Request("GET", "/events", given, headers=headers, timeout=SILENT_SECONDS)
        try:
            async with api.stream(asked) as (response, chunks):
                last, first = last or response.headers.get("X-Event-Cursor"), False
                async for message in messages(chunks):
                    answered = time.monotonic()
                    if message.data is not None:
                        last = message.id or last
                        yield json.loads(message.data)
        except ServiceUnavailable:
            if first or time.monotonic() - answered > max(api.patience, _LOST_SECONDS):
                raise
        await api.pause(_RECONNECT_SECONDS)


class Message(NamedTuple):
    """One message of an event stream. Without data it is a sign of life."""

    id: str | None = None
    kind: str = ""
    data: str | None = None


async def messages(chunks: AsyncIterator[bytes]) -> AsyncGenerator[Message, None]:
    """Each message of an event stream, and an empty one behind a piece without any."""
    rest = b""
    identity: str | None = None
    kind, data = "", list[str]()
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        any_message = False
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if not line:
                if data:
                    any_message = True
                    yield Message(identity, kind, "\n".join(data))
                kind, data = "", []
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif line.startswith("id:"):
                identity = line[3:].strip()
            elif line.startswith("event:"):
                kind = line[6:].strip()
        if not any_message:
            yield Message()
