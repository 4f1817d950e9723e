"""How a user reaches the API of the same machine: a private socket, a port, or a port and a secret.

The API knows connections of its own user by the kernel's list of sockets. For all others there is a secret. It lies in
DATA_DIR, readable for its owner only.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import secrets
import socket
import stat
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ccat_workflow_manager.errors import ConfigurationError

SECRET_FILE = "api-secret"
DEPLOYMENT_FILE = "up.lock"
"""Locked by a `ccat-wm up` as long as it lives. It holds the process, and the URL of the API once that answers."""
SECRET_PREFIX = "ccatwm_local_"
_SECRET_BYTES = 32
_LOCK = "hhqqi"
"""`struct flock` of Linux."""
_LISTENING, _ESTABLISHED = "0A", "01"


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


# --- the secret -----------------------------------------------------------------------------------------------------


def ensure_secret(data_dir: Path) -> str:
    """The secret of the service with this data directory; made at first. Several managers may share it."""
    path = data_dir / SECRET_FILE
    data_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        made = path.with_name(f"{path.name}.{os.getpid()}")
        made.unlink(missing_ok=True)
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{SECRET_PREFIX}{secrets.token_urlsafe(_SECRET_BYTES)}\n")
        with contextlib.suppress(FileExistsError):  # another manager was faster
            os.link(made, path)
        made.unlink()
    secret = _private_text(path)
    if not secret:
        raise ConfigurationError(f"{path} must be a file of this user with mode 0600; remove it for a new one")
    return secret


def _private_text(path: Path) -> str:
    """The text of a file that only its owner, this user, can read; else empty."""
    try:
        with path.open() as file:
            found = os.fstat(file.fileno())
            private = stat.S_ISREG(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
            return file.read(1000).strip() if private and found.st_uid == os.geteuid() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def secret_for(host: str, port: int, data_dir: Path) -> str:
    """The secret of the service with this data directory; empty if there is none, or if another user listens there."""
    return _private_text(data_dir / SECRET_FILE) if is_loopback(host) and _listener_is_trusted(port) else ""


def _is_private(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077


# --- the deployment -------------------------------------------------------------------------------------------------


def deployment_url(data_dir: Path) -> str:
    """The URL of the API that a living `ccat-wm up` of this user has with this data directory; empty if none has."""
    try:
        with (data_dir / DEPLOYMENT_FILE).open() as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid() or not _is_locked(file.fileno()):
                return ""
            _, url, *_ = [*file.read(1000).splitlines(), "", ""]
            return url
    except (OSError, UnicodeDecodeError):
        return ""


def _is_locked(descriptor: int) -> bool:
    """Whether another process has the lock. It is not taken, which could keep a starting `up` out."""
    wanted = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return bool(struct.unpack(_LOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted))[0] != fcntl.F_UNLCK)


# --- who is at the other end ----------------------------------------------------------------------------------------


class _Socket(NamedTuple):
    remote_port: int
    state: str
    uid: int
    is_open: bool
    """A process has it open. The kernel gives those without one to root."""


def is_own_connection(client_port: int, server_port: int) -> bool:
    """Whether the process that has opened this connection over loopback is one of this user."""
    return any(
        each.uid == os.geteuid() and each.is_open
        for each in _sockets(client_port)
        if (each.remote_port, each.state) == (server_port, _ESTABLISHED)
    )


def _listener_is_trusted(port: int) -> bool:
    """Whether no user but this one and root listens on this port: the secret must not be sent to another."""
    return {each.uid for each in _sockets(port) if each.state == _LISTENING} <= {0, os.geteuid()}


def _sockets(port: int) -> Iterator[_Socket]:
    """The TCP sockets of this machine with this local port."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                if wanted in line:
                    _, local, remote, state, _, _, _, uid, _, inode, *_ = line.split()
                    if local.endswith(wanted):
                        yield _Socket(int(remote.rpartition(":")[2], 16), state, int(uid), inode != "0")


def peer_of(connection: socket.socket) -> dict[str, Any]:
    """What the kernel says about the other end: on a Unix socket the `uid` of its user."""
    if connection.family != socket.AF_UNIX:
        return {}
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return {"uid": struct.unpack("3i", found)[1]}


# --- the socket -----------------------------------------------------------------------------------------------------


def listening_socket(path: Path) -> socket.socket:
    """A Unix socket for the API in a directory that only this user can enter. Raises ConfigurationError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(path.parent):
            raise ConfigurationError(f"the directory of API_SOCKET, {path.parent}, must be this user's with mode 0700")
        if accepts(path):
            raise ConfigurationError(f"another service listens on {path}")
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
    except OSError as error:
        raise ConfigurationError(f"the API cannot listen on {path}: {error.strerror or error}") from None
    path.chmod(0o600)
    listener.listen(socket.SOMAXCONN)
    return listener


def accepts(path: Path) -> bool:
    """Whether a service accepts connections on this Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True
