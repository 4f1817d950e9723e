"""Where the service is, how a client proves who it is, and what a refusal means."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ccat_workflow_manager import local_api
from ccat_workflow_manager.errors import Fault, Invalid, RequestError, ServiceUnavailable

URL_VARIABLE = "CCAT_WM_URL"
TOKEN_VARIABLE = "CCAT_WM_TOKEN"
DEFAULT_URL = "http://127.0.0.1:8000"
SOCKET_SCHEME = "unix:"

_SETTING = "CCAT_WORKFLOW_MANAGER_"
_PORT = re.compile("[0-9]{1,5}")
_LAST_PORT = 65535
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a service is called on this machine that listens on all of its addresses."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class WrongAddress(RequestError):
    """The URL or the token cannot be used."""

    code = "wrong_address"


class ApiRefused(Invalid):
    """The API refused the request."""

    code = "api_refused"

    def __init__(self, status: int, message: str, faults: Sequence[Fault] = (), *, problem: str = "") -> None:
        super().__init__(message, faults)
        self.status = status
        self.problem = problem
        """The stable code of the problem document."""


@dataclass(frozen=True, slots=True)
class Address:
    """A service that can be called, with the token for it. `url` may be `unix:/path`."""

    url: str
    base: httpx.URL
    socket: str | None
    local: bool
    token: str

    @classmethod
    def find(cls, url: str | None = None, token: str | None = None) -> Address:
        """The service at `url`, by default that of CCAT_WM_URL, else the one with the settings of this environment.

        Without a token, that of CCAT_WM_TOKEN, else the secret of a service of this user on this machine.
        """
        url = (url or default_url()).rstrip("/")
        token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        return cls.of(url, token.strip())

    @classmethod
    def of(cls, url: str, token: str) -> Address:
        socket = url.removeprefix(SOCKET_SCHEME) if url.startswith(SOCKET_SCHEME) else None
        base = httpx.URL("http://localhost") if socket is not None else _parsed(url)
        local = base.host in _LOOPBACK
        if not token and local and socket is None:
            token = _local_secret(base)
        return cls(url.rstrip("/"), base, socket, local, header_value(token, TOKEN_VARIABLE))

    def options(self) -> dict[str, Any]:
        """The arguments that both clients of httpx take."""
        return {
            "base_url": self.base,
            "headers": {"Authorization": f"Bearer {self.token}"} if self.token else {},
            # No proxy for this machine. Certificates take a while to load, so only https loads them.
            "trust_env": not self.local,
            "verify": self.base.scheme == "https",
        }


def default_url() -> str:
    """The URL in CCAT_WM_URL, else that of the settings in the environment, else that of a `ccat-wm up`.

    Raises WrongAddress.
    """
    if url := os.environ.get(URL_VARIABLE):
        return url
    if path := os.environ.get(_SETTING + "API_SOCKET"):
        return f"{SOCKET_SCHEME}{Path(path).expanduser()}"
    host, port = (os.environ.get(_SETTING + name) or "" for name in ("API_HOST", "API_PORT"))
    running = local_api.deployment_url(_data_dir()) if not host and port in ("", "0") else ""
    if running.startswith(SOCKET_SCHEME):
        return running
    default = httpx.URL(running or DEFAULT_URL)
    port = port or str(default.port)
    if not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        raise WrongAddress(f"{_SETTING}API_PORT={port!r} is not a port: a whole number from 0 to {_LAST_PORT}")
    host = host or default.host
    host = _ANY_HOST.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{int(port) or default.port}"


def _data_dir() -> Path:
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    given = os.environ.get(_SETTING + "DATA_DIR")
    return Path(given).expanduser() if given else home / "ccat-workflow-manager"


def _local_secret(url: httpx.URL) -> str:
    """The secret of a service of this user on this machine; empty if there is none."""
    return local_api.secret_for(url.host, url.port or (443 if url.scheme == "https" else 80), _data_dir())


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise WrongAddress(f"{URL_VARIABLE}={url!r} is not a URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise WrongAddress(f"{URL_VARIABLE}={url!r} is not a URL such as {DEFAULT_URL} or {SOCKET_SCHEME}/path")
    return parsed


def header_value(value: str, name: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise WrongAddress(f"{name} may hold printable ASCII characters only")
    return value


# --- answers ---------------------------------------------------------------------------------------------------------


def json_of(response: httpx.Response) -> Any:
    if response.status_code == httpx.codes.NO_CONTENT:
        return None
    try:
        return response.json()
    except ValueError:
        raise not_this_service(response) from None


def not_this_service(response: httpx.Response) -> ServiceUnavailable:
    url = f"{response.url.scheme}://{response.url.netloc.decode()}"
    return ServiceUnavailable(
        f"the server at {url} is not this service (HTTP {response.status_code}, "
        f"{response.headers.get('content-type', 'no content type')}); check {URL_VARIABLE}"
    )


def unreachable(url: str, error: httpx.TransportError) -> ServiceUnavailable:
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnavailable(f"{url} did not answer in time")
    return ServiceUnavailable(
        f"no service answers at {url} ({str(error) or type(error).__name__}): "
        f"start one with `ccat-wm up`, or set {URL_VARIABLE} to its URL"
    )


def refusal(response: httpx.Response, url: str) -> RequestError | ServiceUnavailable:
    """The error for a problem document: the user has to act, or the service is unavailable."""
    status = response.status_code
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return not_this_service(response)
    message = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
    if status in (401, 403):
        hint = f"; set a token in {TOKEN_VARIABLE}" if status == 401 and TOKEN_VARIABLE not in message else ""
        return ServiceUnavailable(f"{url} refuses access: {message}{hint}")
    if status >= 500:
        return ServiceUnavailable(f"{url} is unavailable: {message}")
    return ApiRefused(status, message, _faults(problem), problem=str(problem["code"]))


def _faults(problem: Mapping[str, Any]) -> tuple[Fault, ...]:
    listed = problem.get("faults") or problem.get("errors") or ()
    return tuple(
        Fault(str(each.get("path", "")), str(each.get("message", ""))) for each in listed if isinstance(each, dict)
    )
