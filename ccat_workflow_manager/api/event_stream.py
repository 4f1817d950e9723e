"""A response of server-sent events that ends with its client, also with one that no longer reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated

from fastapi import Header, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ccat_workflow_manager.api.authentication import Authenticator

MEDIA_TYPE = "text/event-stream"
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", description="The id of the last event that came: only what is behind it.")
]
_SEND_SECONDS = 30
_ALLOWED_SECONDS = 1.0
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(Response):
    """Answers a request with the texts until they end. `on_end` is called once, also if nothing was sent.

    A client that takes nothing for half a minute loses its connection. The stream of one who is no longer known ends:
    its token was revoked.
    """

    def __init__(
        self,
        request: Request,
        texts: AsyncIterator[bytes],
        *,
        on_end: Callable[[], None],
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})}, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._texts = texts
        authenticator: Authenticator = request.app.state.authenticator
        self._is_allowed = partial(authenticator.is_still_known, request)
        self._on_end = on_end

    def abandon(self) -> None:
        """End it although nothing was sent."""
        self._on_end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, leaving, refusing = tasks = [
            asyncio.ensure_future(each)
            for each in (self._send_all(scope, send), _disconnected(receive), self._refused())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._on_end()
        if refusing in done and sending not in done and leaving not in done:
            await _finish(send)

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b": events\n", "more_body": True})
        try:
            async for text in self._texts:
                if text:
                    async with asyncio.timeout(_SEND_SECONDS):
                        await send({"type": "http.response.body", "body": text, "more_body": True})
        except TimeoutError:
            # Closing would wait until the client has read what is in the buffers.
            if (abort := scope.get("state", {}).get("abort")) is not None:
                abort()
            return
        await _finish(send)

    async def _refused(self) -> None:
        while await self._is_allowed():  # noqa: ASYNC110  another process may have revoked the token
            await asyncio.sleep(_ALLOWED_SECONDS)


async def _finish(send: Send) -> None:
    with suppress(OSError):
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
