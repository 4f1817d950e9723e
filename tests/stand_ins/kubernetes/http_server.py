"""HTTP/1.1 on loopback: connections that are kept, watches as chunked streams."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.stand_ins.kubernetes.errors import bad_request
from tests.stand_ins.kubernetes.objects import Object

HOST = "127.0.0.1"


class Cut(Exception):
    """The connection is to be closed in the middle of the answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Raises BadRequest."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("true", "1")

    def number(self, name: str) -> int | None:
        """Raises BadRequest."""
        text = self.query.get(name, "")
        if not text:
            return None
        if not text.lstrip("-").isdecimal():
            raise bad_request(f'unable to decode query: strconv.ParseInt: parsing "{text}": invalid syntax')
        return int(text)


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back: an object, a text, or a stream of pieces."""

    status: int
    body: Object | bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None

    @property
    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request and the status of its answer; 0 is no answer at all."""

    method: str
    path: str
    query: str
    status: int


class HttpServer(ThreadingHTTPServer):
    """Hands requests to `answer`, which may raise Cut."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, answer: Callable[[Request], Answer], tls: tuple[Path, Path] | None) -> None:
        super().__init__((HOST, 0), _Handler)
        self.answer = answer
        self.log: list[LoggedRequest] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="stand-in HTTP", daemon=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

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
        """Print the error, unless it is only that the client has gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: HttpServer
    logged: bool

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base class has
        """Print nothing: `HttpServer.log` has it."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.logged = False
        try:
            answer = self.server.answer(Request(self.command, unquote(url.path), query, headers, body))
            self._log(answer.status)
            self._send(answer)
        except Cut:
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self._log(0)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names that the base class looks for

    def _log(self, status: int) -> None:
        if not self.logged:
            self.logged = True
            path, _, query = self.path.partition("?")
            self.server.log.append(LoggedRequest(self.command, unquote(path), query, status))

    def _send(self, answer: Answer) -> None:
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
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            for piece in answer.stream:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
