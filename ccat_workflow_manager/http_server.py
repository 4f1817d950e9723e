"""The HTTP server of the API: on a Unix socket or on a port, with limits for connections and slow clients."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ccat_workflow_manager import local_api
from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.settings import Settings


class _Server(uvicorn.Server):
    """uvicorn's server, which does not raise the signal again that ended it: the loops are stopped afterwards.

    Requests that wait are answered at once, and event streams are ended, so that they do not delay the end. It wakes up
    once a second, for the header `Date`; uvicorn looks ten times a second if it is to end.
    """

    def __init__(
        self, config: uvicorn.Config, answer_waiting: Callable[[], None], end_streams: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._answer_waiting = answer_waiting
        self._end_streams = end_streams
        self._wake_up: Callable[[], object] = lambda: None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._answer_waiting()
        super().handle_exit(sig, frame)
        self._wake_up()

    async def main_loop(self) -> None:
        ending, loop = asyncio.Event(), asyncio.get_running_loop()
        self._wake_up = partial(loop.call_soon_threadsafe, ending.set)
        while not await self.on_tick(0):  # of its ten ticks a second, the one that sets the header
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), 1)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(context: Context, *, graceful_seconds: int) -> None:
    """Serve the API until SIGTERM or SIGINT."""
    settings = context.settings
    on_socket = settings.api_socket.name != ""
    sockets = [local_api.listening_socket(settings.api_socket)] if on_socket else None
    secret = None if on_socket or settings.auth_required else local_api.ensure_secret(settings.data_dir)
    app = create_app(context, secret=secret)
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        http=_protocol(settings),
        log_config=None,
        access_log=False,
        proxy_headers=False,  # they would hide whose connection it is
        timeout_graceful_shutdown=graceful_seconds,
    )

    def end_streams() -> None:
        context.feed.close()
        app.state.log_streams.close()
        app.state.live.close()

    gc.freeze()  # so that no collection looks again at what lives as long as the process
    try:
        _Server(config, app.state.run_watch.stop, end_streams).run(sockets=sockets)
    finally:
        if on_socket:
            settings.api_socket.unlink(missing_ok=True)


def _protocol(settings: Settings) -> type[asyncio.Protocol]:
    class Bounded(HttpToolsProtocol):
        """uvicorn's protocol, which closes connections that are too many or whose headers take too long."""

        _deadline: asyncio.TimerHandle | None = None
        _peer: dict[str, Any]
        """What is known about the client, for all requests of this connection."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._peer = local_api.peer_of(transport.get_extra_info("socket"))
            if len(self.connections) > settings.api_connections:
                transport.abort()
            else:
                self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._begin()
            super().on_message_begin()
            self.scope["state"]["peer"] = self._peer
            self.scope["state"]["abort"] = self.transport.abort
            self.scope["state"]["write"] = self.write_chunk

        def write_chunk(self, text: bytes) -> bool:
            """Send a piece of a body at once. Returns False if the client is slow or gone."""
            if self.flow.write_paused or self.transport.is_closing():
                return False
            self.transport.write(b"%x\r\n%b\r\n" % (len(text), text))
            return True

        def on_headers_complete(self) -> None:
            self._end()
            super().on_headers_complete()

        def _begin(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(settings.api_header_seconds, self.transport.abort)

        def _end(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Bounded
