"""What the service gives to handlers: context, caller and body; and the check of the query parameters."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

from fastapi import Header, Request
from pydantic import AfterValidator, BaseModel

from ccat_workflow_manager.api.authentication import who
from ccat_workflow_manager.api.problems import BodyTooLarge, BodyTooSlow, MalformedBody, UnsupportedMediaType
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.definition.messages import refuse_if, validated
from ccat_workflow_manager.definition.text import load_text
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.json_values import duplicate_name, invalid, scan_json
from ccat_workflow_manager.settings import Settings

PREFIX = "/api/v1"
LARGE_BYTES = 1024 * 1024
LARGE_AT_ONCE = 4
"""So many bodies of more than LARGE_BYTES are in memory at once, and as many answers."""
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")

M = TypeVar("M", bound=BaseModel)

_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Given:
    """Marks a parameter of a handler that comes from the service and not from the client (`api.route.Route`)."""

    of: Callable[[Request], Any]
    """Called where the handler runs."""
    reads_body: bool = False


def _of_app(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def _name(request: Request) -> str:
    return who(request).name


_NO_BODY = (b"", b"{}", b"null")


async def no_unknown_body(request: Request) -> None:
    """Refuse a body for a call that takes none: its sender expects that something is done with it."""
    if request.method != "GET":
        _no_form(_media_type(request))
    in_pieces, length = "transfer-encoding" in request.headers, request.headers.get("content-length", "0")
    if length == "0" and not in_pieces:
        return
    if in_pieces or len(length) > 3 or (await request.body()).strip() not in _NO_BODY:
        raise Invalid(faults=[Fault("", "this call takes no body")])


def known_parameters(request: Request, parameters: Mapping[str, Any]) -> None:
    """Refuse query parameters that are not among these, and repeated ones that take a single value."""
    known = list(parameters)
    given = Counter(name for name, _ in request.query_params.multi_items())
    hint = f"; known: {', '.join(known)}" if known else "; there are none here"
    faults = [Fault(name, f"unknown parameter{hint}") for name in given if name not in known]
    faults += [
        Fault(name, "is given more than once")
        for name, count in given.items()
        if count > 1 and not _is_list(parameters.get(name))
    ]
    if faults:
        raise Invalid(faults=faults)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(each) is list for each in (annotation, *get_args(annotation)))


def _storable_key(key: str) -> str:
    fits = 0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()
    refuse_if(None if fits else f"must have 1 to {_LONGEST_KEY} printable ASCII characters")
    return key


Ctx = Annotated[Context, Given(_of_app)]
Who = Annotated[Identity, Given(who)]
Actor = Annotated[str, Given(_name)]
"""The name of the caller, as events record it."""
IdempotencyKey = Annotated[
    Annotated[str, AfterValidator(_storable_key)] | None,
    Header(alias="Idempotency-Key", description="Makes the call safe to repeat."),
]


# --- the body -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RawBody:
    """The bytes of a body. Handlers parse them in their own thread, outside the event loop."""

    data: bytes
    media_type: str

    def parse(self, model: type[M], **context: Any) -> M:
        """A JSON body as a model. `context` is what the validators of its fields need to know."""
        data = self._json()
        if len(self.data) > LARGE_BYTES and not (scan := scan_json(data)).readable:
            raise invalid(scan.faults)
        return validated(model, data, context)

    def parse_optional(self, model: type[M]) -> M:
        """The same; without a body the model with no field given."""
        _no_form(self.media_type)
        return model() if self.data.strip() in _NO_BODY else self.parse(model)

    def definition(self) -> Any:
        """A pipeline definition in JSON or YAML, not validated."""
        if self.media_type not in YAML_TYPES:
            return self._json()
        try:
            return load_text(self.data.decode())
        except UnicodeDecodeError as error:
            raise MalformedBody(f"the body is not UTF-8: {error}") from None

    def _json(self) -> Any:
        if not _is_json(self.media_type):
            raise _unsupported(self.media_type)
        if not self.data.strip():
            raise MalformedBody("the body is empty; send a JSON object")
        try:
            return json.loads(self.data.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        except RecursionError:
            raise MalformedBody("the body is nested too deeply") from None
        except ValueError as error:  # also raised for bytes that are not UTF-8
            raise MalformedBody(f"the body is not JSON: {error}") from None


@asynccontextmanager
async def reading_body(request: Request) -> AsyncIterator[None]:
    """Read the body for a handler. Raises BodyTooLarge before more than the limit is in memory.

    A body of more than a megabyte waits until few others are in progress, and counts until its response is ready.
    """
    if (coding := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise UnsupportedMediaType(f"the body has the Content-Encoding {coding[:50]}; send it without any")
    settings = _of_app(request).settings
    most_bytes = settings.body_limit_mb * 1024**2
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise _too_large(settings)
    large: asyncio.Semaphore = request.app.state.large_bodies
    holds_place = False
    chunks: list[bytes] = []
    size = 0
    try:
        try:
            async with asyncio.timeout(settings.api_body_seconds):
                async for chunk in request.stream():
                    if size <= LARGE_BYTES < size + len(chunk):
                        holds_place = await large.acquire()
                    size += len(chunk)
                    if size > most_bytes:
                        raise _too_large(settings)
                    chunks.append(chunk)
        except TimeoutError:
            raise BodyTooSlow(f"the body took more than {settings.api_body_seconds:g} s (API_BODY_SECONDS)") from None
        request.state.body = RawBody(b"".join(chunks), _media_type(request))
        yield
    finally:
        if holds_place:
            large.release()


def body_of(request: Request) -> RawBody:
    """The body that `reading_body` has read."""
    body: RawBody = request.state.body
    return body


Body = Annotated[RawBody, Given(body_of, reads_body=True)]


def _too_large(settings: Settings) -> BodyTooLarge:
    return BodyTooLarge(f"the body may have at most {settings.body_limit_mb} MB (BODY_LIMIT_MB)")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def _no_form(media_type: str) -> None:
    """Refuse what any web page can make a browser send: a form or plain text, also an empty one."""
    if media_type and not _is_json(media_type) and media_type not in YAML_TYPES:
        raise _unsupported(media_type)


def _unsupported(media_type: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(f"unsupported media type {media_type or '(none)'}; send application/json")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the name {json.dumps(duplicate_name(pairs))} is given twice in one object")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON value")
