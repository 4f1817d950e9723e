"""Refuses requests before any handler sees them: a foreign Host, a foreign web page, no secret."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ccat_workflow_manager.api.problems import problem
from ccat_workflow_manager.local_api import is_loopback, is_own_connection

HEALTH = ("/healthz", "/readyz")
"""Anyone may ask these, by any name: probes know neither."""
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_SAFE = ("GET", "HEAD")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Guard:
    """Middleware. `hosts` are the names of the API beside those of loopback.

    `secret` is for calls of other users of this machine; None: no call needs one.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], secret: str | None) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts if not is_loopback(host))
        self._secret = None if secret is None else f"Bearer {secret}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" and scope["path"] not in HEALTH else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            # A page of another name whose address was changed to loopback would be of the same origin.
            name = hosts[0] if hosts else "(none)"
            return problem(421, "misdirected_request", f"this API has no name {name[:100]!r}; add it to API_HOSTS")
        is_link = scope["method"] in _SAFE and headers.get("sec-fetch-mode") == "navigate"
        if not is_link and (why := self._foreign(headers, hosts[0])):
            return problem(403, "forbidden", f"a web page of another site must not call this API ({why})")
        if not self._is_allowed(scope, headers):
            detail = (
                "this service is another user's; a call needs `Authorization: Bearer SECRET` with what is in the file "
                "api-secret of its DATA_DIR"
            )
            return problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        return None

    def _is_allowed(self, scope: Scope, headers: Headers) -> bool:
        if self._secret is None:
            return True
        if hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), self._secret):
            return True
        # The kernel's list is long, so it is read once for a connection.
        peer = scope.get("state", {}).get("peer", {})
        client, server = scope.get("client"), scope.get("server")
        if not peer.get("is_own") and client is not None and server is not None:
            peer["is_own"] = is_own_connection(client[1], server[1])
        return bool(peer.get("is_own"))

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


def _name(host: str) -> str:
    """The name in a Host header, without the port; empty if it is not one."""
    if not _HOST.fullmatch(host):
        return ""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
