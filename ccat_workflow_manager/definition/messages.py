"""Validates input by pydantic models, and words their errors."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ccat_workflow_manager.definition.synonyms import meant, model_in
from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import invalid, kind, path_text, shown, similar, text_problem

M = TypeVar("M", bound=BaseModel)

_MOST_ERRORS = 20_000
"""Pydantic lists its errors all or none, at some 5 microseconds each."""
_MOST_FIELDS = 100
_MOST_WORDS = 50
_FEW_WORDS = 8
_TYPES = {
    "string_type": "a string",
    "float_type": "a number",
    "int_type": "a whole number",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "bool_type": "true or false",
    "uuid_type": "a UUID",
}
_WORDS = {
    "bool_parsing": "true or false",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "uuid_parsing": "a UUID",
}
"""What a text must spell, as in a URL."""
_HINTS = {"a mapping": " of names to values"}
_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_LENGTHS = {
    "too_short": ("at least", "min_length", "entry", "entries"),
    "too_long": ("at most", "max_length", "entry", "entries"),
    "string_too_short": ("at least", "min_length", "character", "characters"),
    "string_too_long": ("at most", "max_length", "character", "characters"),
}
_NAMES = {
    "-": "lower-case letters, digits and - (at most 63, no - first)",
    "_-": "lower-case letters, digits, - and _ (at most 63, letter or digit first)",
    "._-": "letters, digits, -, _ and . (at most 63, letter or digit first)",
}


def validated(model: type[M], data: object, context: Mapping[str, Any] | None = None) -> M:
    """The data as an instance of the model. Raises Invalid with the path and message of every fault.

    `context` is what the validators of its fields need to know.
    """
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise invalid(faults_of(error, data, model)) from None


def given_fields(cls: type[BaseModel], data: Any) -> Any:
    """For validators of models, before all fields: without those that are null, which is no value of theirs.

    Refuses very many: pydantic would describe each of a million unknown fields.
    """
    if not isinstance(data, dict):
        return data
    if len(data) > _MOST_FIELDS:
        refuse_if(f"has {len(data)} fields; no object here has more than {_MOST_FIELDS}")
    if None not in data.values():
        return data
    with_value = {each.alias or name for name, each in cls.model_fields.items() if each.default is not None}
    return {name: value for name, value in data.items() if value is not None or name not in with_value}


def refuse_if(problem: str | None) -> None:
    """For validators of fields: fail with this message."""
    if problem is not None:
        raise PydanticCustomError("refused", "{problem}", {"problem": problem})


def faults_of(error: ValidationError, data: object, model: type[BaseModel]) -> Iterator[Fault]:
    """The errors that pydantic found in `data`."""
    if error.error_count() > _MOST_ERRORS:
        yield Fault("", f"has {error.error_count()} faults, too many to list")
        return
    for detail in error.errors(include_url=False):
        if _is_genuine(detail):
            yield Fault(path_text(_path(detail, data)), message_of(detail, model))


def message_of(detail: ErrorDetails, model: type[BaseModel] = BaseModel) -> str:
    """One sentence for one error of pydantic."""
    sort, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if sort == "missing":
        return "is required"
    if sort == "extra_forbidden":
        return _unknown_field(detail["loc"], model)
    if sort in _TYPES:
        return _wrong_type(_TYPES[sort], detail["loc"], value)
    if sort in _LIMITS:
        word, name = _LIMITS[sort]
        bound = context[name]
        return f"must be {word} {bound if isinstance(bound, int) else f'{bound:g}'}, not {shown(value)}"
    if sort in _LENGTHS:
        return _wrong_length(sort, context)
    if sort == "string_pattern_mismatch":
        signs = str(context["pattern"]).split("[")[2].split("]")[0].removeprefix("a-z0-9").removeprefix("A-Za-z0-9")
        return f"must be made of {_NAMES[signs]}, not {shown(value)}"
    if sort == "string_unicode":
        return text_problem(str(value)) or detail["msg"]
    if sort == "finite_number":
        return "must be a finite number"
    if sort in _WORDS:
        return f"must be {_WORDS[sort]}, not {shown(value)}"
    if sort in ("enum", "literal_error"):
        return _wrong_word(str(context["expected"]), value)
    return detail["msg"]


def _is_genuine(detail: ErrorDetails) -> bool:
    """False if pydantic calls a list too short only because some of its entries are wrong."""
    value = detail["input"]
    return detail["type"] != "too_short" or not isinstance(value, list) or len(value) < detail["ctx"]["min_length"]


def _path(detail: ErrorDetails, data: Any) -> list[int | str]:
    """The path as the sender of `data` knows it, without the parts that pydantic and validators add to it."""
    path: list[int | str] = []
    missing = detail["loc"][-1:] if detail["type"] == "missing" else ()
    for part in detail["loc"][: len(detail["loc"]) - len(missing)]:
        if part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int):
            path.append(part)
            data = data[part]
    if detail["type"] == "string_unicode" and isinstance(data, dict):
        path.append(detail["input"])  # a key that pydantic cannot put into `loc`
    return [*path, *missing]


def _wrong_type(wanted: str, path: tuple[int | str, ...], value: object) -> str:
    if len(path) > 1 and path[-2] == "depends_on":
        return f"must be the name of a step, or {{step: NAME, match: key or all}}; not {kind(value)}"
    sentence = (
        f"must be {wanted}{_HINTS.get(wanted, '')}, not {shown(value) if isinstance(value, float) else kind(value)}"
    )
    match path[-1] if path else "", value:
        case "command", str():
            return f"{sentence}; write the argument vector, such as {_as_vector(value)}"
        case "depends_on", str():
            return f"{sentence}; write {json.dumps([value])}"
    if wanted == "a string" and isinstance(value, bool | int | float):
        return f'{sentence}; write it in quotes: "{shown(value)}"'
    if path and path[-1] == "environment" and isinstance(value, list):
        return f"{sentence}; write NAME: value"
    return sentence


def _wrong_word(expected: str, value: object) -> str:
    known = re.findall("'([^']*)'", expected)
    close = similar(value, known) if isinstance(value, str) and len(known) > _FEW_WORDS else None
    if close is not None:
        return f"must be one of {len(known)} words, not {shown(value)}; did you mean {close}?"
    return f"must be {expected.replace(chr(39), '')}, not {shown(value)}"


def _as_vector(command: str) -> str:
    """A command line as a list that can be pasted: JSON, which is YAML too."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return json.dumps(words[:_MOST_WORDS] or ["program", "argument"], ensure_ascii=False)


def _wrong_length(sort: str, context: Mapping[str, Any]) -> str:
    word, name, one, many = _LENGTHS[sort]
    limit = context[name]
    actual = context.get("actual_length")
    found = f"; it has {actual}" if isinstance(actual, int) and actual else ""
    return f"must have {word} {limit} {one if limit == 1 else many}{found}"


def _unknown_field(path: tuple[int | str, ...], model: type[BaseModel]) -> str:
    for part in path[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = model_in(model.model_fields[part].annotation) or model
    close = meant(str(path[-1]), model)
    known = ", ".join(field.alias or name for name, field in model.model_fields.items())
    return f"unknown field; did you mean {close}?" if close else f"unknown field; known: {known}"
