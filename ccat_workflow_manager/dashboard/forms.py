"""Forms from JSON Schema: which fields a pipeline asks for, and the parameters that a form that was sent means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.errors import Fault, Invalid

ENDS = {"1h": timedelta(hours=1), "4h": timedelta(hours=4), "1d": timedelta(days=1), "7d": timedelta(days=7)}


def end_of(chosen: str, typed: str) -> str | None:
    """When something ends by itself: a time that is typed goes before the choice. None: never."""
    if typed := typed.strip():
        return typed
    if not chosen:
        return None
    if chosen not in ENDS:
        raise Invalid(faults=[Fault("ends", "is not one of the choices")])
    return (times.now() + ENDS[chosen]).isoformat()


def whole(text: str) -> int | None:
    """The whole number that a person typed. None: it is none."""
    try:
        return int(text)
    except ValueError:
        return None


def number(text: str) -> float | int | str:
    """The number that a person typed, or the text if it is none."""
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return text


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form. `kind` is text, number, flag, choice, list or json."""

    name: str
    label: str
    kind: str
    value: str
    help: str
    required: bool
    choices: tuple[str, ...] = ()
    whole: bool = False


def fields(schema: Mapping[str, Any], given: Mapping[str, Any]) -> list[Field]:
    """The fields for the properties of a schema. `given` are values in place of the defaults."""
    required = set(schema.get("required") or ())
    return [
        _field(name, each if isinstance(each, dict) else {}, given, name in required)
        for name, each in (schema.get("properties") or {}).items()
    ]


def _field(name: str, schema: Mapping[str, Any], given: Mapping[str, Any], required: bool) -> Field:
    kind = _kind(schema)
    value = given.get(name, schema.get("default"))
    return Field(
        name=name,
        label=str(schema.get("title") or name),
        kind=kind,
        value=_text(value, kind),
        help=_help(schema, kind),
        required=required,
        choices=tuple(_text(each, "json") for each in schema.get("enum") or ()),
        whole=schema.get("type") == "integer",
    )


def _kind(schema: Mapping[str, Any]) -> str:
    if schema.get("enum"):
        return "choice"
    kind = schema.get("type")
    if kind == "array" and (schema.get("items") or {}).get("type") == "string":
        return "list"
    return {"string": "text", "integer": "number", "number": "number", "boolean": "flag"}.get(str(kind), "json")


def _help(schema: Mapping[str, Any], kind: str) -> str:
    """The description, and what its reader has to know to fill the field."""
    told = str(schema.get("description") or "")
    return f"{told} {_form_of(schema, kind)}".strip()


def _form_of(schema: Mapping[str, Any], kind: str) -> str:
    if kind == "list":
        return "One a line."
    if kind == "number":
        least, most = schema.get("minimum"), schema.get("maximum")
        bounds = [f"at least {least}" if least is not None else "", f"at most {most}" if most is not None else ""]
        text = ", ".join(filter(None, ["whole number" if schema.get("type") == "integer" else "", *bounds]))
        return f"{text[:1].upper()}{text[1:]}." if text else ""
    if kind == "json":
        inner = schema.get("properties")
        return f"In JSON, with {', '.join(map(str, inner))}." if isinstance(inner, dict) and inner else "In JSON."
    return ""


def _text(value: Any, kind: str) -> str:
    if value is None:
        return ""
    if kind == "list" and isinstance(value, list):
        return "\n".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parameters(schema: Mapping[str, Any], sent: Mapping[str, list[str]]) -> tuple[dict[str, Any], list[Fault]]:
    """The parameters of a form that was sent, without empty fields; and the faults of fields that are no JSON."""
    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for field in fields(schema, {}):
        texts = sent.get(f"p.{field.name}")
        if field.kind == "flag":
            found[field.name] = texts is not None
            continue
        if texts is None or not texts[0].strip():
            continue
        try:
            found[field.name] = _value(field, texts[0])
        except ValueError:
            what = {"number": "must be a number"}.get(field.kind, "must be JSON")
            faults.append(Fault(f"parameters.{field.name}", what))
    return found, faults


def _value(field: Field, text: str) -> Any:
    match field.kind:
        case "list":
            return [line.strip() for line in text.splitlines() if line.strip()]
        case "number":
            number = json.loads(text)
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(text)
            return number
        case "json":
            return json.loads(text)
        case "choice":
            return next((each for each in (text, _json_or_none(text)) if _text(each, "json") in field.choices), text)
        case _:
            return text


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def labels(text: str) -> tuple[dict[str, str], list[Fault]]:
    """Labels as lines `name: value`."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            return {}, [Fault("labels", f"{line[:80]!r} must be written name: value")]
        found[name.strip()] = value.strip()
    return found, []


def replaced(field: Field, value: str) -> Field:
    """The field with what was typed."""
    return replace(field, value=value)
