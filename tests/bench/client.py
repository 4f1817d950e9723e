"""HTTP clients that cost next to nothing themselves: on two cores the client must not be what is measured."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_CHUNK = 256 * 1024
_END = b"\r\n\r\n"
_IDLE_SECONDS = 2
"""Servers close connections that are silent for longer than a few seconds."""


class Refused(Exception):
    """An answer with another status than the expected one."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def message(method: str, path: str, body: object = None, *, token: str = "") -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    content = json.dumps(body).encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


class Connection:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = bytearray()
        self._used = time.monotonic()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def read(self) -> Answer | None:
        """Take what has arrived: the answer if it is whole."""
        chunk = self.socket.recv(_CHUNK)
        if not chunk:
            raise ConnectionError("the server hung up")
        self._data += chunk
        head, end, body = self._data.partition(_END)
        if not end:
            return None
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        answer = Answer(int(head[9:12]), bytes(body[:length]))
        del self._data[: len(head) + len(_END) + length]
        return answer

    def exchange(self, request: bytes) -> Answer:
        if time.monotonic() - self._used > _IDLE_SECONDS:
            self.socket.close()
            self._connect()
        self.send(request)
        while (answer := self.read()) is None:
            pass
        self._used = time.monotonic()
        return answer

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send one request, and read the JSON of the answer, which must be a success."""
        answer = self.exchange(message(method, path, body))
        if not 200 <= answer.status < 300:
            raise Refused(f"{method} {path}: {answer.status} {answer.body[:500]!r}")
        return answer.json()


def hammer(port: int, request: bytes, count: int, connections: int) -> float:
    """Send the same request `count` times, over each connection the next one after an answer: per second."""
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = Connection(port)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        lines: Sequence[Connection] = [key.data for key in selector.get_map().values()]
        began = time.perf_counter()
        for connection in lines[:count]:
            connection.send(request)
        sent = min(count, connections)
        done = 0
        while done < count:
            for key, _ in selector.select():
                answer = key.data.read()
                if answer is None:
                    continue
                if not 200 <= answer.status < 300:
                    raise Refused(f"{answer.status} {answer.body[:500]!r}")
                done += 1
                if sent < count:
                    key.data.send(request)
                    sent += 1
        seconds = time.perf_counter() - began
        for connection in lines:
            connection.socket.close()
    return count / seconds
