"""The client of the REST API that the commands use."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ccat_workflow_manager import local_api
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.errors import Fault, Invalid, NotFound, RequestError, ServiceUnavailable

URL_VARIABLE = "CCAT_WM_URL"
TOKEN_VARIABLE = "CCAT_WM_TOKEN"
DEFAULT_URL = "http://127.0.0.1:8000"
SOCKET_SCHEME = "unix:"

_TIMEOUT = httpx.Timeout(60, connect=10)
_PAGE = 500
_SETTING = "CCAT_WORKFLOW_MANAGER_"
_SEARCHED = 1000
"""Among so many newest runs the end of an id is looked for."""
_PART_OF_ID = re.compile("[0-9a-fA-F-]{4,35}")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ApiRefused(Invalid):
    """The API refused the request."""

    code = "api_refused"

    def __init__(self, status: int, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message, faults)
        self.status = status


class Client:
    """Calls one API: at a URL, or on a Unix socket (`unix:/path`).

    Without a token it looks for the secret of a service of this user on this machine.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        on_socket = url.startswith(SOCKET_SCHEME)
        parsed = httpx.URL("http://localhost") if on_socket else _parsed(url)
        local = parsed.host in _LOOPBACK
        if not token and local and not on_socket:
            token = _local_secret(parsed)
        headers = {"Authorization": f"Bearer {_header(token, TOKEN_VARIABLE)}"} if token else {}
        # No proxy for this machine. Certificates take a while to load, so only https loads them.
        self._http = httpx.Client(
            base_url=parsed,
            headers=headers,
            timeout=_TIMEOUT,
            transport=httpx.HTTPTransport(uds=url.removeprefix(SOCKET_SCHEME)) if on_socket else None,
            trust_env=not local,
            verify=parsed.scheme == "https",
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- calls -------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """GET a JSON response. Query values that are None are left out."""
        return _json(self._send("GET", path, query=query))

    def text(self, path: str, **query: Any) -> httpx.Response:
        """GET a response that is not JSON."""
        return self._send("GET", path, query=query)

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """GET content of any size."""
        try:
            with self._http.stream("GET", f"/api/v1{path}", headers=dict(headers)) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(response, self.url)
                yield response
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def post(self, path: str, body: Any = None, *, idempotency_key: str | None = None) -> Any:
        headers = {"Idempotency-Key": _header(idempotency_key, "--idempotency-key")} if idempotency_key else {}
        return _json(self._send("POST", path, body=body, headers=headers))

    def put(self, path: str, body: Any, **query: Any) -> tuple[Any, bool]:
        """PUT a body. Returns the response, and whether something was created."""
        response = self._send("PUT", path, body=body, query=query)
        return _json(response), response.status_code == httpx.codes.CREATED

    def patch(self, path: str, body: Any) -> Any:
        return _json(self._send("PATCH", path, body=body))

    def delete(self, path: str, **query: Any) -> Any:
        return _json(self._send("DELETE", path, query=query))

    def items(self, path: str, limit: int | None, **query: Any) -> Iterator[dict[str, Any]]:
        """Up to `limit` items of a list, page by page."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            response = self._send("GET", path, query={**query, "limit": size, "cursor": cursor})
            page = _json(response)
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise _not_this_service(response)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return
            left = None if left is None else left - len(page["items"])

    # --- runs --------------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> dict[str, Any]:
        """A run with its step runs; `latest` is the newest one."""
        found: dict[str, Any] = self.get(f"/runs/{quote(self.run_id(run_id), safe='')}")
        return found

    def run_id(self, given: str) -> str:
        """The id of a run: by itself, by its first or last characters, `latest`, or `latest:PIPELINE`."""
        word, _, pipeline = given.partition(":")
        if word == "latest":
            newest = next(self.items("/runs", 1, pipeline=pipeline or None), None)
            if newest is None:
                of = f" of {pipeline}" if pipeline else ""
                raise NotFound(
                    f"there is no run{of} yet; create one with `ccat-wm run submit {pipeline or 'PIPELINE'}`"
                )
            return str(newest["id"])
        return self._complete(given.lower()) if _PART_OF_ID.fullmatch(given) else given

    def _complete(self, part: str) -> str:
        """The id of which this is the beginning or the end."""
        ids = [str(each["id"]) for each in self.items("/runs", _SEARCHED)]
        found = [each for each in ids if each.startswith(part) or each.endswith(part)]
        found = found or [str(each["id"]) for each in self.items("/runs", 2, q=part) if each["id"].startswith(part)]
        if not found:
            raise NotFound(f"no run has an id that begins or ends with {part!r}")
        if len(found) > 1:
            few = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            raise WrongUsage(f"{part!r} is the beginning or end of the ids of {len(found)} runs: {few}")
        return found[0]

    # --- below -------------------------------------------------------------------------------------------------------

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        # As ASCII: a parameter may hold half of a surrogate pair, which the service refuses.
        content = None if body is None else json.dumps(body)
        all_headers = {**({"Content-Type": "application/json"} if content else {}), **(headers or {})}
        try:
            response = self._http.request(method, f"/api/v1{path}", params=given, content=content, headers=all_headers)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if response.is_success:
            return response
        raise _refusal(response, self.url)

    def _unreachable(self, error: httpx.TransportError) -> ServiceUnavailable:
        if isinstance(error, httpx.TimeoutException):
            return ServiceUnavailable(f"{self.url} did not answer in time")
        return ServiceUnavailable(
            f"no service answers at {self.url} ({str(error) or type(error).__name__}): "
            f"start one with `ccat-wm up`, or set {URL_VARIABLE} to its URL"
        )


def _local_secret(url: httpx.URL) -> str:
    """The secret of a service of this user on this machine; empty if there is none."""
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    given = os.environ.get(_SETTING + "DATA_DIR")
    data_dir = Path(given).expanduser() if given else home / "ccat-workflow-manager"
    return local_api.secret_for(url.host, url.port or (443 if url.scheme == "https" else 80), data_dir)


def connect() -> Client:
    """A client for the API in CCAT_WM_URL, else for the one of this machine."""
    path = os.environ.get(_SETTING + "API_SOCKET")
    url = os.environ.get(URL_VARIABLE) or (f"{SOCKET_SCHEME}{Path(path).expanduser()}" if path else DEFAULT_URL)
    return Client(url, os.environ.get(TOKEN_VARIABLE, "").strip())


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise WrongUsage(f"{URL_VARIABLE}={url!r} is not a URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise WrongUsage(f"{URL_VARIABLE}={url!r} is not a URL such as {DEFAULT_URL} or {SOCKET_SCHEME}/path")
    return parsed


def _header(value: str, name: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise WrongUsage(f"{name} may hold printable ASCII characters only")
    return value


def _json(response: httpx.Response) -> Any:
    if response.status_code == httpx.codes.NO_CONTENT:
        return None
    try:
        return response.json()
    except ValueError:
        raise _not_this_service(response) from None


def _not_this_service(response: httpx.Response) -> ServiceUnavailable:
    url = f"{response.url.scheme}://{response.url.netloc.decode()}"
    return ServiceUnavailable(
        f"the server at {url} is not this service (HTTP {response.status_code}, "
        f"{response.headers.get('content-type', 'no content type')}); check {URL_VARIABLE}"
    )


def _refusal(response: httpx.Response, url: str) -> RequestError | ServiceUnavailable:
    """The error for a problem document: the user has to act, or the service is unavailable."""
    status = response.status_code
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return _not_this_service(response)
    message = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
    if status in (401, 403):
        return ServiceUnavailable(f"{url} refuses access: {message}; set it in {TOKEN_VARIABLE}")
    if status >= 500:
        return ServiceUnavailable(f"{url} is unavailable: {message}")
    return ApiRefused(status, message, _faults(problem))


def _faults(problem: Mapping[str, Any]) -> tuple[Fault, ...]:
    listed = problem.get("faults") or problem.get("errors") or ()
    return tuple(
        Fault(str(each.get("path", "")), str(each.get("message", ""))) for each in listed if isinstance(each, dict)
    )
