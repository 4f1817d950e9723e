"""HTTP/1.1 on loopback: connections that are kept, watches as chunked streams, faults on demand."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.stand_ins.kubernetes.answers import ApiError
from tests.stand_ins.kubernetes.exchange import Answer, Cut, Request
from tests.stand_ins.kubernetes.fault_desk import FaultInjector

HOST = "127.0.0.1"
_CONTROL = "/_"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that has come in, and what was answered; status 0 is no answer at all."""

    method: str
    path: str
    query: str
    status: int


class HttpFace(ThreadingHTTPServer):
    """Hands requests to `answer`. `control` gets what is posted to /_faults."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(
        self,
        port: int,
        answer: Callable[[Request], Answer],
        desk: FaultInjector,
        control: Callable[[dict[str, Any]], None],
        tls: tuple[Path, Path] | None,
    ) -> None:
        super().__init__((HOST, port), _Handler)
        self.answer = answer
        self.desk = desk
        self.control = control
        self.seen: list[Seen] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="stand-in HTTP", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is nothing to speak of."""
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: HttpFace
    told: bool

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base class has
        """Nothing: `HttpFace.seen` has it."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        request = Request.parse(self.command, self.path, dict(self.headers.items()), body)
        if request.path.startswith(_CONTROL):
            self._control(request)
            return
        self.told = False
        try:
            self._converse(request)
        except Cut:
            self._cut()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self._tell(request, 0)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names that the base class looks for

    def _tell(self, request: Request, status: int) -> None:
        if not self.told:
            self.told = True
            self.server.seen.append(Seen(request.method, request.path, self.path.partition("?")[2], status))

    def _converse(self, request: Request) -> None:
        answer = self.server.desk.before(request)
        if answer is None:
            try:
                answer = self.server.answer(request)
            except ApiError as error:
                answer = Answer(error.code, error.body)
            self.server.desk.after(request)
        self._tell(request, answer.status)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Cache-Control", "no-cache, private")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.stream is None:
            data = answer.encoded
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for piece in answer.stream:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def _control(self, request: Request) -> None:
        text = b"{}"
        if request.path == "/_faults":
            self.server.control(request.json)
        elif request.path == "/_requests":
            rows = [[one.method, one.path, one.query, one.status] for one in list(self.server.seen)]
            text = json.dumps(rows).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()
