"""Finds out who makes a request: by its token, by its session, or, without AUTH_REQUIRED, by its connection."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from uuid import UUID

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.types import Scope

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import ServiceUnavailable, WorkflowError
from ccat_workflow_manager.identity import ANONYMOUS, Identity, user_of
from ccat_workflow_manager.local_api import SECRET_PREFIX, is_own_connection
from ccat_workflow_manager.threads import in_thread

COOKIE = "ccat_wm_session"
CSRF_HEADER = "x-csrf-token"
_METRICS = "/metrics"


@dataclass(slots=True)
class Caller:
    """Who makes the present request."""

    identity: Identity
    is_limited: bool = True
    """It may make only so many requests a second."""
    session_id: UUID | None = None
    """It came with a cookie, which a browser sends with every request: a change needs a sign that our page made it."""


def current_identity(request: Request) -> Identity | None:
    """Who makes this request; None on a page that needs no log-in."""
    caller: Caller | None = request.scope["state"].get("caller")
    return None if caller is None else caller.identity


def csrf_token(request: Request) -> str:
    """What a page sends as `X-CSRF-Token` with changes; empty without a session."""
    caller: Caller | None = request.scope["state"].get("caller")
    sessions = request.app.state.context.sessions
    if caller is None or caller.session_id is None:
        return ""
    return str(sessions.proof(caller.session_id))


def is_forged(request: Request) -> bool:
    """Whether nothing shows that a change with a cookie comes from a page of this site.

    `Guard` has refused foreign values of `Origin` and `Sec-Fetch-Site`, so one of its own is such a sign.
    """
    caller: Caller | None = request.scope["state"].get("caller")
    if caller is None or caller.session_id is None:
        return False
    headers = request.headers
    if "origin" in headers or headers.get("sec-fetch-site") == "same-origin":
        return False
    sessions = request.app.state.context.sessions
    return not sessions.is_proof(caller.session_id, headers.get(CSRF_HEADER, ""))


def who(request: Request) -> Identity:
    """Who makes this request, on a route that is not open to anyone."""
    identity = current_identity(request)
    assert identity is not None, "the route is open to anyone"
    return identity


class Authenticator:
    """Knows the caller of each request."""

    def __init__(self, context: Context, secret: str | None) -> None:
        """`secret` is for calls of other users of this machine; None: no call needs one."""
        self._context = context
        self._required = context.settings.auth_required
        self._secret = None if secret is None or self._required else secret.encode()
        self._socket = context.settings.api_socket.name != ""

    async def caller(self, scope: Scope, headers: Headers) -> Caller | None:
        """The caller, None if it proves nothing. Raises WorkflowError if that cannot be found out now."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else ""
        if given and (self._required or not self._is_local(given)):
            return await self._of_token(given, scope["path"])
        if (found := await self._of_cookie(headers)) is not None:
            return found
        if self._required:
            return None
        if given and self._secret is not None and hmac.compare_digest(given.encode("latin-1"), self._secret):
            return Caller(user_of(os.geteuid()), is_limited=False)
        return self._of_connection(scope)

    async def is_still_known(self, request: Request) -> bool:
        """Whether the caller of a request that goes on for long would be the same now. True while that is unknown."""
        if not self._required:
            return True
        try:
            caller = await self.caller(request.scope, request.headers)
        except WorkflowError:
            return True
        return caller is not None and caller.identity == current_identity(request)

    def _is_local(self, given: str) -> bool:
        return given.startswith(SECRET_PREFIX) or not given.startswith("ccatwm_")

    async def _of_token(self, given: str, path: str) -> Caller | None:
        tokens = self._context.tokens
        if not tokens.needs_database(given):
            token = tokens.check(given)
        else:
            try:
                token = await in_thread(tokens.check, given)
            except ServiceUnavailable:
                # The metrics say that the database is away, so they must not need it.
                token = tokens.remembered(given) if path == _METRICS else None
                if token is None:
                    raise
        return None if token is None else Caller(token.identity)

    async def _of_cookie(self, headers: Headers) -> Caller | None:
        sessions = self._context.sessions
        if sessions is None or COOKIE not in headers.get("cookie", ""):
            return None
        session_id = sessions.id_in(cookie_parser(headers["cookie"]).get(COOKIE, ""))
        if session_id is None:
            return None
        if sessions.needs_database(session_id):
            session = await in_thread(sessions.check, session_id)
        else:
            session = sessions.check(session_id)
        return None if session is None else Caller(session.identity, session_id=session.id)

    def _of_connection(self, scope: Scope) -> Caller | None:
        # The kernel's list is long, so it is read once for a connection.
        peer = scope.get("state", {}).get("peer", {})
        if self._socket:
            return Caller(user_of(peer["uid"]), is_limited=False) if "uid" in peer else None
        if self._secret is None:
            return Caller(ANONYMOUS, is_limited=False)
        client, server = scope.get("client"), scope.get("server")
        if not peer.get("is_own") and client is not None and server is not None:
            peer["is_own"] = is_own_connection(client[1], server[1])
        return Caller(user_of(os.geteuid()), is_limited=False) if peer.get("is_own") else None
