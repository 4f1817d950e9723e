"""A served application that can be stopped and started again under an open page."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from tests.support.waiting import PATIENCE, wait_until


class Server:
    """API and pages on a port that they keep. Each start makes the context anew, which the end has closed."""

    def __init__(self, make: Callable[[], Context]) -> None:
        self._make = make
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self.context = self._make()
        app = create_app(self.context)
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=self._port, log_config=None, timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, 30, "the server to start")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)


@contextmanager
def served(context: Context) -> Iterator[str]:
    """Serve an application. Yields its address."""
    server = Server(lambda: context)
    yield server.url
    server.stop()
