"""A network that can be cut: a port on loopback before the Unix socket of a server."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

_CHUNK = 65536


class Proxy:
    """Passes everything on, unless it is cut."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut = False
        self._flowing = threading.Event()
        self._flowing.set()
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def whole(self) -> bool:
        return not self._cut and self._flowing.is_set()

    def cut(self, seconds: float) -> None:
        """Break all connections, and let no new one through for a while."""
        with self._lock:
            self._cut = True
            pairs, self._pairs = self._pairs, []
        self.cuts += len(pairs)
        for pair in pairs:
            _break(*pair)
        timer = threading.Timer(seconds, self._mend)
        timer.daemon = True
        timer.start()

    def hold(self, seconds: float) -> None:
        """Let nothing through for a while, without a word to anybody: what was sent meanwhile arrives afterwards."""
        self._flowing.clear()
        timer = threading.Timer(seconds, self._flowing.set)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        self._listener.close()
        self._flowing.set()
        self.cut(0)

    def _mend(self) -> None:
        self._cut = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            with self._lock:
                try:
                    if self._cut:
                        raise ConnectionRefusedError
                    server.connect(self._upstream)
                except OSError:
                    _break(client, server)
                    continue
                self._pairs.append((client, server))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=(one, other, self._flowing), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket, flowing: threading.Event) -> None:
    try:
        while data := one.recv(_CHUNK):
            flowing.wait()
            other.sendall(data)
    except OSError:
        pass
    _break(one, other)


def _break(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
