"""Refuses requests before any handler sees them: a foreign Host, a foreign web page, an unknown caller."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccat_workflow_manager.api.authentication import Authenticator
from ccat_workflow_manager.api.dependencies import PREFIX
from ccat_workflow_manager.api.problems import of_error, problem
from ccat_workflow_manager.api.rate_limit import RateLimit
from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.local_api import is_loopback

HEALTH = ("/healthz", "/readyz")
"""Anyone may ask these, by any name: probes know neither."""
OPEN = ("/login", "/login/oidc", "/login/oidc/callback")
"""Anyone may open these, to log in."""
OPEN_FILES = "/static/"
"""The files that pages need, which hold nothing of any project."""
REQUEST_ID = "x-request-id"

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SAFE = ("GET", "HEAD")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_UNKNOWN_CALLER = (
    "this call needs a valid token or log-in: `Authorization: Bearer TOKEN`; commands take it from CCAT_WM_TOKEN, and "
    "on the machine of a service without AUTH_REQUIRED from the file api-secret in its DATA_DIR"
)


class Guard:
    """Middleware. `hosts` are the names of the API beside those of loopback."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], authenticator: Authenticator, limit: RateLimit) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts if not is_loopback(host))
        self._authenticator = authenticator
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _ID.fullmatch(given) else uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        refusal = self._refusal(scope, headers) or await self._unknown(scope, headers)
        await (self._app if refusal is None else refusal)(scope, receive, send_with_id)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            # A page of another name whose address was changed to loopback would be of the same origin.
            name = hosts[0] if hosts else "(none)"
            return problem(421, "misdirected_request", f"this API has no name {name[:100]!r}; add it to API_HOSTS")
        is_link = scope["method"] in _SAFE and headers.get("sec-fetch-mode") == "navigate"
        if not is_link and (why := self._foreign(headers, hosts[0])):
            return problem(403, "forbidden", f"a web page of another site must not call this API ({why})")
        return None

    async def _unknown(self, scope: Scope, headers: Headers) -> Response | None:
        """The refusal of a caller that is not known. A person who opens a page is sent to the log-in."""
        path: str = scope["path"]
        try:
            caller = await self._authenticator.caller(scope, headers)
        except WorkflowError as error:
            return of_error(error)
        scope["state"]["caller"] = caller
        if caller is not None and caller.is_limited and (seconds := self._limit.wait_seconds(caller.identity.key)):
            detail = f"{caller.identity.name} makes more requests than API_REQUESTS_PER_SECOND allows"
            return problem(429, "too_many_requests", detail, headers={"Retry-After": str(seconds)})
        if caller is not None or path in OPEN or path.startswith(OPEN_FILES):
            return None
        if not path.startswith(PREFIX) and "text/html" in headers.get("accept", ""):
            return RedirectResponse(f"/login?next={quote(_page_of(scope, headers), safe='')}", 303)
        return problem(401, "unauthorized", _UNKNOWN_CALLER, headers={"WWW-Authenticate": 'Bearer realm="ccat-wm"'})

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        return name in self._hosts or is_loopback(name)

    def _foreign(self, headers: Headers, host: str) -> str | None:
        """Why a browser seems to send this for a page of another site."""
        origin = headers.get("origin")
        if origin is not None and not self._is_own_origin(origin, host):
            return f"Origin: {origin[:100]}"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and not (site == "same-site" and origin is not None):
            return f"Sec-Fetch-Site: {site[:100]}"
        return None

    def _is_own_origin(self, origin: str, host: str) -> bool:
        scheme, _, place = origin.lower().partition("://")
        port = _DEFAULT_PORTS.get(scheme, "")
        return bool(place) and (
            place.removesuffix(port) == host.lower().removesuffix(port) or _name(place) in self._hosts
        )


def _page_of(scope: Scope, headers: Headers) -> str:
    """The page that a person is on, to come back to after the log-in. What was to be changed is not repeated."""
    if scope["method"] not in _SAFE:
        return "/" + headers.get("referer", "").partition("://")[2].partition("/")[2]
    query = scope["query_string"].decode("latin-1")
    path: str = scope["path"]
    return f"{path}?{query}" if query else path


def _name(host: str) -> str:
    """The name in a Host header, without the port; empty if it is not one."""
    if not _HOST.fullmatch(host):
        return ""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
