"""What a user reads when a field of a definition has the wrong shape."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import kind, shown

_TYPES = {
    "string_type": "a string",
    "float_type": "a number",
    "int_type": "a whole number",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "bool_type": "true or false",
}
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


def is_genuine(detail: ErrorDetails) -> bool:
    """False when pydantic calls a list too short only because some of its entries are wrong."""
    value = detail["input"]
    return detail["type"] != "too_short" or not isinstance(value, list) or len(value) < detail["ctx"]["min_length"]


def message_of(detail: ErrorDetails, root: type[BaseModel]) -> str:
    """One sentence for one finding of pydantic."""
    sort, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if sort == "missing":
        return "is required"
    if sort == "extra_forbidden":
        return _unknown_field(detail["loc"], root)
    if sort in _TYPES:
        return _wrong_type(_TYPES[sort], detail["loc"], value)
    if sort in _LIMITS:
        word, name = _LIMITS[sort]
        return f"must be {word} {context[name]:g}, not {shown(value)}"
    if sort in _LENGTHS:
        return _wrong_length(sort, context)
    if sort == "string_pattern_mismatch":
        signs = str(context["pattern"]).split("[")[2].split("]")[0].removeprefix("a-z0-9").removeprefix("A-Za-z0-9")
        return f"must be made of {_NAMES[signs]}, not {shown(value)}"
    if sort == "finite_number":
        return "must be a finite number"
    if sort == "enum":
        return f"is no failure reason ({shown(value)}); there are {', '.join(FailureReason)}"
    if sort == "literal_error":
        return f"must be {str(context['expected']).replace(chr(39), '')}, not {shown(value)}"
    return detail["msg"]


def place_of(detail: ErrorDetails) -> tuple[int | str, ...]:
    """Where it is, without what pydantic adds for the keys of a mapping."""
    return tuple(part for part in detail["loc"] if part != "[key]")


def _wrong_type(wanted: str, place: tuple[int | str, ...], value: object) -> str:
    if len(place) > 1 and place[-2] == "depends_on":
        return f"must be the name of a step, or {{step: NAME, match: key or all}}; not {kind(value)}"
    sentence = f"must be {wanted}, not {shown(value) if isinstance(value, float) else kind(value)}"
    match place[-1] if place else "", value:
        case "command", str():
            vector = ", ".join(value.split()[:4]) or "program, argument"
            return f"{sentence}; write the argument vector, such as [{vector}]"
        case "depends_on", str():
            return f"{sentence}; write [{value}]"
    if wanted == "a string" and isinstance(value, bool | int | float):
        return f'{sentence}; write it in quotes: "{shown(value)}"'
    if place and place[-1] == "environment" and isinstance(value, list):
        return f"{sentence}; write NAME: value"
    return sentence


def _wrong_length(sort: str, context: Mapping[str, Any]) -> str:
    word, name, one, many = _LENGTHS[sort]
    limit = context[name]
    actual = context.get("actual_length")
    found = f"; it has {actual}" if isinstance(actual, int) and actual else ""
    return f"must have {word} {limit} {one if limit == 1 else many}{found}"


def _unknown_field(place: tuple[int | str, ...], root: type[BaseModel]) -> str:
    model = root
    for part in place[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    known = list(model.model_fields)
    close = get_close_matches(str(place[-1]), known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"is no field that is known here; {hint}"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if found := _model_in(inner):
            return found
    return None
