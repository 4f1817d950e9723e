"""A response of server-sent events that ends with its client, also with one that no longer reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Annotated

from fastapi import Header, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ccat_workflow_manager.api.authentication import Authenticator, current_identity

MEDIA_TYPE = "text/event-stream"
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", description="The id of the last event that came: only what is behind it.")
]
BEGIN = b": events\n"
_SEND_SECONDS = 30
_LOOK_SECONDS = 1.0
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(Response):
    """Answers a request with the texts until they end. `on_end` is called once, also if nothing was sent.

    A client that takes nothing for half a minute loses its connection. The stream of one who is no longer known ends:
    its token was revoked.
    """

    def __init__(
        self,
        request: Request,
        texts: AsyncGenerator[bytes, None],
        *,
        on_end: Callable[[], None],
        headers: dict[str, str] | None = None,
        begin: bytes = BEGIN,
    ) -> None:
        super().__init__(headers={**STREAM_HEADERS, **(headers or {})}, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self.request = request
        self.caller = request.headers.get("authorization"), request.headers.get("cookie"), current_identity(request)
        """What shows who asks, and who that was."""
        self._texts = texts
        self._on_end = on_end
        self._begin = begin
        self._write: Callable[[bytes], bool] | None = request.scope["state"].get("write")
        """Past all middleware, which has nothing to do once an answer has begun, and costs as much as the sending."""
        self._sending_since: float | None = None
        self._refused: asyncio.Future[None] | None = None

    def abandon(self) -> None:
        """End it although nothing was sent."""
        self._on_end()

    def refuse(self) -> None:
        """End it in order, as its client is no longer known."""
        if self._refused is not None and not self._refused.done():
            self._refused.set_result(None)

    def cut_if_stuck(self, now: float) -> None:
        """Abort the connection of a client that takes nothing.

        To close it would wait until the client has read what is in the buffers.
        """
        abort = self.request.scope["state"].get("abort")
        if abort is not None and self._sending_since is not None and now - self._sending_since > _SEND_SECONDS:
            abort()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._refused = asyncio.get_running_loop().create_future()
        open_streams: OpenStreams = self.request.app.state.open_streams
        open_streams.add(self)
        sending, leaving = tasks = [asyncio.ensure_future(self._send_all(send)), asyncio.ensure_future(_gone(receive))]
        try:
            done, _ = await asyncio.wait([*tasks, self._refused], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if sending not in done and leaving not in done:
                sending.cancel()
                await self._finish(send)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            open_streams.remove(self)
            self._on_end()
            await self._texts.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._send(send, self._begin)
        async for text in self._texts:
            if text:
                await self._send(send, text)
        await self._finish(send)

    async def _finish(self, send: Send) -> None:
        with suppress(OSError):
            await self._send(send, b"", more=False)

    async def _send(self, send: Send, text: bytes, *, more: bool = True) -> None:
        if more and self._write is not None and self._write(text):
            return
        self._sending_since = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": text, "more_body": more})
        self._sending_since = None


class OpenStreams:
    """The streams of one process. One task looks every second which of them must end."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._streams: set[EventStream] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, stream: EventStream) -> None:
        self._streams.add(stream)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._watch())

    def remove(self, stream: EventStream) -> None:
        self._streams.discard(stream)

    async def _watch(self) -> None:
        try:
            while self._streams:
                await asyncio.sleep(_LOOK_SECONDS)
                await self._look()
        finally:
            for stream in self._streams:
                stream.refuse()

    async def _look(self) -> None:
        streams, now = tuple(self._streams), asyncio.get_running_loop().time()
        for stream in streams:
            stream.cut_if_stuck(now)
        callers = {stream.caller: stream.request for stream in streams}
        answers = await asyncio.gather(*map(self._authenticator.is_still_known, callers.values()))
        known = dict(zip(callers, answers, strict=True))
        for stream in streams:
            if not known[stream.caller]:
                stream.refuse()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
