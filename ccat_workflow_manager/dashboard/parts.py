"""Parts of pages that all readers share: each is made once, however many open pages ask for it at the same moment.

A middleware answers, without a route, with a part that is made already or is being made.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Hashable
from functools import partial, wraps
from typing import Any, NamedTuple

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ccat_workflow_manager.api.authentication import Caller, who
from ccat_workflow_manager.dashboard.board import Board
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.identity import Identity, Projects, Role
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.threads import in_thread

_SECONDS = 1.0
_PREFIX = "/ui/"


class _Key(NamedTuple):
    """The address of a part, and the rights of those who see it so."""

    path: str
    query: bytes
    projects: Projects
    role: Role

    @classmethod
    def of(cls, scope: Scope, identity: Identity) -> _Key:
        return cls(scope["path"], scope["query_string"], identity.projects, identity.role)


class _Kept(NamedTuple):
    made: asyncio.Task[Rendered]
    until: float
    route: object

    def is_old(self, now: float) -> bool:
        """One that is still being made is not: it would be begun again just when that takes long."""
        return self.made.done() and (self.until < now or self.has_failed)

    @property
    def has_failed(self) -> bool:
        return self.made.cancelled() or self.made.exception() is not None


class Parts:
    """The parts of the last second, for the event loop. None is kept that is older than the last change."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Kept] = {}
        self._changes = 0

    async def get(
        self, key: Hashable, make: Callable[[], Rendered], answers: Answers, route: object = None
    ) -> Rendered:
        """The part for this key, made of these answers. One that cannot be made is not kept."""
        now = time.monotonic()
        kept = self.kept(key, answers, now)
        if kept is None:
            self._kept = {each: other for each, other in self._kept.items() if not other.is_old(now)}
            kept = _Kept(asyncio.ensure_future(in_thread(make)), now + min(_SECONDS, answers.longest), route)
            self._kept[key] = kept
        return await asyncio.shield(kept.made)

    def kept(self, key: Hashable, answers: Answers, now: float) -> _Kept | None:
        """What is made already, or is being made."""
        if answers.changes != self._changes:
            self._kept, self._changes = {}, answers.changes
        found = self._kept.get(key)
        return None if found is None or found.is_old(now) else found


class KeptParts:
    """Middleware behind `Guard`: answers with a part that is kept for readers with the rights of this one.

    The first of them had the right to it, by the route. Any reader with the same role and projects has it, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = self._kept(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if kept is not None and not kept.made.done():
            await asyncio.wait((kept.made,))
        if kept is None or kept.has_failed:  # the route says why
            await self._app(scope, receive, send)
            return
        scope["route"], part = kept.route, kept.made.result()
        given = dict(scope["headers"])
        known, accepted = given.get(b"if-none-match", b""), given.get(b"accept-encoding", b"")
        await part.response(known.decode("latin-1"), accepted.decode("latin-1"))(scope, receive, send)

    @staticmethod
    def _kept(scope: Scope) -> _Kept | None:
        caller: Caller | None = scope["state"].get("caller") if scope["path"].startswith(_PREFIX) else None
        if caller is None:
            return None
        state = scope["app"].state
        found: _Kept | None = state.parts.kept(_Key.of(scope, caller.identity), state.answers, time.monotonic())
        return found


def shared(handler: Callable[..., Rendered]) -> Callable[..., Coroutine[Any, Any, Response]]:
    """A route that answers all readers with the same role and projects who ask for the same at the same time.

    `handler` may look at the address, the role and the projects of the reader, and at nothing else of the request.
    """

    @wraps(handler)
    async def answer(board: Board, **values: Any) -> Response:
        scope, parts = board.request.scope, board.request.app.state.parts
        key = _Key.of(scope, who(board.request))
        part: Rendered = await parts.get(key, partial(ready, board, **values), board.answers, scope["route"])
        return part.answer(board.request)

    def ready(board: Board, **values: Any) -> Rendered:
        part = handler(board, **values)
        part.prepare()
        return part

    signature = inspect.signature(handler, eval_str=True)
    answer.__signature__ = signature.replace(return_annotation=Response)  # type: ignore[attr-defined]
    return answer
