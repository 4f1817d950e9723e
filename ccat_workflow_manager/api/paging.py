"""JSON responses: single resources, and lists in pages with opaque cursors.

A cursor holds the key of the last item of a page, so a list that grows between two calls repeats no item.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Query
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ccat_workflow_manager.api.dependencies import LARGE_AT_ONCE, LARGE_BYTES
from ccat_workflow_manager.api.problems import problem
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries import Row, array
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.definition.project import PROJECT_NAME
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.json_values import text_problem
from ccat_workflow_manager.services.feed_cursor import BadCursor

K = TypeVar("K", UUID, int, str)

DEFAULT_LIMIT = 100
Limit = Annotated[int, Query(ge=1, le=1000, description="Largest number of items.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the previous page.")]
ProjectName = Annotated[str | None, Query(pattern=PROJECT_NAME, description="Only those of this project.")]

_BIGGEST = 2**63
_PIECE_BYTES = 256 * 1024


def read_one(context: Context, what: str, view: Callable[[UnitOfWork, Any], str | None], key: object) -> str:
    """The JSON text of one resource. Raises NotFound."""
    with context.database.read() as unit:
        unit.snapshot()
        text = view(unit, key)
    if text is None:
        raise NotFound(f"there is no {what} {key}")
    return text


def json_response(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    kind = Response if len(text) <= LARGE_BYTES else LargeResponse
    return kind(text, status, headers, "application/json")


# --- conditional requests --------------------------------------------------------------------------------------------


def etag_of(text: str) -> str:
    """A weak ETag of this text."""
    return f'W/"{blake2b(text.encode(), digest_size=12).hexdigest()}"'


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has this version already, by its header `If-None-Match`."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags


def not_modified(etag: str) -> Response:
    return Response(status_code=304, headers={"ETag": etag, "Cache-Control": "no-cache"})


def tagged(text: str, etag: str) -> Response:
    """A JSON response with an ETag."""
    return json_response(text, headers={"ETag": etag, "Cache-Control": "no-cache"})


class _TaggedPage(Response):
    """A list with an ETag. It is not sent to a client that has it already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        etag = self.headers["etag"]
        if matches(Headers(scope=scope).get("if-none-match"), etag):
            await not_modified(etag)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


# --- large responses -------------------------------------------------------------------------------------------------


class LargeResponse(Response):
    """A response of more than a megabyte, such as a run of 100,000 step runs. Few are in memory at once.

    It is sent in pieces, so that a slow client holds its place; one that takes longer than API_BODY_SECONDS is cut off.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["app"].state
        places: asyncio.Semaphore = state.large_answers
        if places.locked() and scope["method"] == "GET":
            detail = f"{LARGE_AT_ONCE} large answers are being sent; ask again, or ask for lists, which come in pages"
            await problem(503, "service_unavailable", detail, headers={"Retry-After": "5"})(scope, receive, send)
            return
        async with places:
            try:
                async with asyncio.timeout(state.context.settings.api_body_seconds):
                    await self._send(send)
            except TimeoutError:
                raise ClientDisconnect from None

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(self.body), _PIECE_BYTES):
            piece = self.body[start : start + _PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def page(kind: str, rows: Sequence[Row], limit: int) -> Response:
    """A page of up to `limit` rows; one more in `rows` means that there is another page."""
    shown = rows[:limit]
    cursor = json.dumps(encode(kind, shown[-1].key)) if len(rows) > limit else "null"
    return listed(f'{{"items":{array(row.json for row in shown)},"next_cursor":{cursor}}}')


def listed(text: str) -> Response:
    """A list with an ETag, unless it is large."""
    if len(text) > LARGE_BYTES:
        return json_response(text)
    return _TaggedPage(text, 200, {"ETag": etag_of(text), "Cache-Control": "no-cache"}, "application/json")


# --- cursors ---------------------------------------------------------------------------------------------------------


def encode(kind: str, key: UUID | int | str) -> str:
    """The cursor for this key in a list of this kind."""
    text = json.dumps([kind, key if isinstance(key, int) else str(key)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(kind: str, cursor: str | None, key_of: Callable[[Any], K]) -> K | None:
    """The key in a cursor. Raises BadCursor for a malformed cursor and for the cursor of another list."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        of, key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if of != kind:
            raise ValueError(of)
        return key_of(key)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise BadCursor("this is not a cursor of this list") from None


def uuid_key(value: Any) -> UUID:
    return UUID(value)


def number_key(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _BIGGEST:
        raise ValueError(value)
    return value


def text_key(value: Any) -> str:
    if not isinstance(value, str) or text_problem(value):
        raise ValueError(value)
    return value
