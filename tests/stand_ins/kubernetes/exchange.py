"""A request and its answer, apart from how they travel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.stand_ins.kubernetes.answers import ApiError, bad_request
from tests.stand_ins.kubernetes.models import Object


class Cut(Exception):
    """The connection is to be closed in the middle of the answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    user: str = ""

    @classmethod
    def parse(cls, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Request:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        lower = {name.lower(): value for name, value in headers.items()}
        return cls(method, unquote(parts.path), query, lower, body)

    @property
    def json(self) -> Any:
        """Raises BadRequest, UnsupportedMediaType."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip()
        if kind and not kind.endswith("json"):
            message = (
                "the body of the request was in an unknown format - accepted media types include: application/json"
            )
            raise ApiError(415, "UnsupportedMediaType", message, {})
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("true", "1")

    def number(self, name: str) -> int | None:
        """Raises BadRequest."""
        text = self.query.get(name, "")
        if not text:
            return None
        if not text.lstrip("-").isdecimal():
            raise bad_request(f'unable to decode query: strconv.ParseInt: parsing "{text}": invalid syntax')
        return int(text)

    @property
    def wants_table(self) -> bool:
        return "as=Table" in self.headers.get("accept", "")


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back: an object, a text, or a stream of pieces."""

    status: int
    body: Object | bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None

    @property
    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode() + b"\n"
