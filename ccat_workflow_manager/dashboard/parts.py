"""Parts of pages that all readers share: each is made once, however many open pages ask for it at the same moment."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Hashable
from functools import partial, wraps
from typing import Any, NamedTuple

from starlette.responses import Response

from ccat_workflow_manager.dashboard.board import Board
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.threads import in_thread

_SECONDS = 1.0


class _Kept(NamedTuple):
    made: asyncio.Task[Rendered]
    until: float

    def is_old(self, now: float) -> bool:
        """One that is still being made is not: it would be begun again just when that takes long."""
        return self.made.done() and (self.until < now or self.made.cancelled() or self.made.exception() is not None)


class Parts:
    """The parts of the last second, for the event loop. None is kept that is older than the last change."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Kept] = {}
        self._changes = 0

    async def get(self, key: Hashable, make: Callable[[], Rendered], answers: Answers) -> Rendered:
        """The part for this key, made of these answers. One that cannot be made is not kept."""
        now, changes = time.monotonic(), answers.changes
        if changes != self._changes:
            self._kept, self._changes = {}, changes
        kept = self._kept.get(key)
        if kept is None or kept.is_old(now):
            self._kept = {each: other for each, other in self._kept.items() if not other.is_old(now)}
            kept = _Kept(asyncio.ensure_future(in_thread(make)), now + min(_SECONDS, answers.longest))
            self._kept[key] = kept
        return await asyncio.shield(kept.made)


def shared(handler: Callable[..., Rendered]) -> Callable[..., Coroutine[Any, Any, Response]]:
    """A route that answers all readers with the same role and projects who ask for the same at the same time.

    `handler` may look at the address, the role and the projects of the reader, and at nothing else of the request.
    """

    @wraps(handler)
    async def answer(board: Board, **values: Any) -> Response:
        request, parts = board.request, board.request.app.state.parts
        key = request.url.path, request.url.query, board.projects, tuple(board.may.values())
        part: Rendered = await parts.get(key, partial(ready, board, **values), board.answers)
        return part.answer(request)

    def ready(board: Board, **values: Any) -> Rendered:
        part = handler(board, **values)
        part.prepare()
        return part

    signature = inspect.signature(handler, eval_str=True)
    answer.__signature__ = signature.replace(return_annotation=Response)  # type: ignore[attr-defined]
    return answer
