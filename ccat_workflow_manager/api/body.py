"""Bodies of requests: read with a limit, checked for their type, and taken as JSON or as a pipeline definition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from ccat_workflow_manager.api.problems import BodyTooLarge, MalformedBody, UnsupportedMediaType
from ccat_workflow_manager.definition.text import load_text
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import kind, text_problem

MOST_BYTES = 32 * 1024 * 1024
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


@dataclass(frozen=True, slots=True)
class RawBody:
    """The bytes as they came, to be parsed outside the event loop."""

    data: bytes
    media_type: str

    def json(self) -> Any:
        """The value that the body stands for."""
        if self.media_type not in ("", "application/json") and not self.media_type.endswith("+json"):
            raise UnsupportedMediaType(f"this call takes application/json, not {self.media_type}")
        if not self.data.strip():
            raise MalformedBody("the body is empty; this call takes a JSON object")
        try:
            return json.loads(self.data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        except RecursionError:
            raise MalformedBody("the body is not JSON: it is nested too deeply") from None
        except ValueError as error:  # of the JSON as well as of the UTF-8
            raise MalformedBody(f"the body is not JSON: {error}") from None

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object."""
        value = self.json()
        if not isinstance(value, dict):
            raise Invalid(faults=[Fault("", f"the body must be a JSON object, not {kind(value)}")])
        return value

    def json_object_or_nothing(self) -> dict[str, Any]:
        """The same for calls that need no body."""
        return self.json_object() if self.data.strip() else {}

    def definition(self) -> Any:
        """A pipeline definition as JSON or YAML."""
        if self.media_type not in YAML_TYPES:
            return self.json()
        try:
            return load_text(self.data.decode())
        except UnicodeDecodeError as error:
            raise MalformedBody(f"the body is not UTF-8: {error}") from None


async def read_body(request: Request) -> RawBody:
    """The whole body, or BodyTooLarge before more than the limit is in memory."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MOST_BYTES:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MOST_BYTES:
            raise _too_large()
        chunks.append(chunk)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return RawBody(b"".join(chunks), media_type)


Body = Annotated[RawBody, Depends(read_body)]


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the body may have at most {MOST_BYTES // 1024**2} MB")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {json.dumps(twice)} is given twice in one object")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON value")


# --- the fields of an object ----------------------------------------------------------------------------------------


class Fields:
    """Takes the fields out of a JSON object one by one, and collects everything that is wrong with them."""

    def __init__(self, value: dict[str, Any], known: Sequence[str], path: str = "", faults: list[Fault] | None = None):
        self._value = value
        self._prefix = f"{path}." if path else ""
        self.faults: list[Fault] = [] if faults is None else faults
        if not value.keys() <= set(known):
            hint = f"; there are {', '.join(known)}"
            for name in [name for name in value if name not in known][:20]:
                self.fault(name if text_problem(name) is None else json.dumps(name), f"is not a field of this{hint}")

    def fault(self, name: str, message: str) -> None:
        self.faults.append(Fault(self._prefix + name, message))

    def text(self, name: str) -> str | None:
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.fault(name, f"must be a string, not {kind(value)}")
        elif problem := text_problem(value):
            self.fault(name, problem)
        else:
            return value
        return None

    def whole(self, name: str) -> int | None:
        value = self._value.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        self.fault(name, f"must be a whole number, not {kind(value)}")
        return None

    def truth(self, name: str) -> bool | None:
        value = self._value.get(name)
        if value is None or isinstance(value, bool):
            return value
        self.fault(name, f"must be true or false, not {kind(value)}")
        return None

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._value.get(name)
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        self.fault(name, f"must be a mapping, not {kind(value)}")
        return {}

    def texts(self, name: str) -> dict[str, str]:
        """A mapping of texts to texts."""
        found = self.mapping(name)
        for key, value in found.items():
            if not isinstance(value, str):
                self.fault(f"{name}.{key}", f"must be a string, not {kind(value)}")
            elif problem := text_problem(key) or text_problem(value):
                self.fault(f"{name}.{key}", problem)
        return found

    def check(self) -> None:
        """Raise Invalid if anything was wrong."""
        if self.faults:
            raise Invalid(faults=self.faults)
