"""The messages between the `local` backend and its supervisor: JSON in frames, over a unix socket."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ccat_workflow_manager.errors import BackendConfused

PROTOCOL = 5
"""Raised with every change of these messages, or of the files of the supervisor."""
SOCKET_NAME = "supervisor.sock"
LOCK_NAME = "supervisor.lock"
LOG_NAME = "supervisor.log"
LARGEST_FRAME = 256 * 1024 * 1024

_HEADER = 4


def pack(value: Any) -> bytes:
    data = json.dumps(value, separators=(",", ":")).encode("ascii")
    return len(data).to_bytes(_HEADER, "big") + data


class Unpacker:
    """Puts frames together from the pieces that arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The values that are complete now. Raises BackendConfused."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEADER:
            end = _HEADER + int.from_bytes(buffer[:_HEADER], "big")
            if end > LARGEST_FRAME:
                raise _confused(f"it has {end} bytes")
            if len(buffer) < end:
                return
            frame = bytes(buffer[_HEADER:end])
            del buffer[:end]
            try:
                yield json.loads(frame)
            except ValueError as error:
                raise _confused(f"it is no JSON: {error}") from None


def _confused(why: str) -> BackendConfused:
    return BackendConfused(f"a message between the supervisor and its client cannot be read: {why}", backend="local")


@contextmanager
def _short_path(state_dir: str) -> Iterator[str]:
    """A short path of the socket: that of a unix socket has at most 107 bytes."""
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)


def connect(state_dir: str, timeout: float) -> socket.socket:
    """A connection to the supervisor. Raises OSError; FileNotFoundError and ConnectionRefusedError if there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        with _short_path(state_dir) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def listen(state_dir: str) -> socket.socket:
    """The socket of the supervisor. Only the process that holds the lock may make it."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(state_dir, SOCKET_NAME))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short_path(state_dir) as path:
        listener.bind(path)
    listener.listen(128)
    listener.setblocking(False)
    return listener


class OwnSocket:
    """The socket that a supervisor has made. Its directory may be removed, and made again for another supervisor."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, SOCKET_NAME)
        self._file = self._identity()

    def is_there(self) -> bool:
        return self._file is not None and self._identity() == self._file

    def remove(self) -> None:
        if self.is_there():
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.lstat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


def holder(state_dir: str) -> str:
    """The supervisor that holds the lock, or held it last, as `HostProcess.text`; empty if that is not known."""
    try:
        with open(os.path.join(state_dir, LOCK_NAME), encoding="utf-8", errors="replace") as file:
            return file.read(200).strip()
    except OSError:
        return ""
