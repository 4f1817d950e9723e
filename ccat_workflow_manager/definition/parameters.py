"""The parameters of a run: filled in with defaults, checked against the schema of the pipeline."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from ccat_workflow_manager.definition.schema_check import Schema, resolved
from ccat_workflow_manager.definition.validator import additional, budget, spend, validator_of
from ccat_workflow_manager.errors import MAX_FAULTS, Fault, Invalid
from ccat_workflow_manager.json_values import (
    JSON,
    PathPart,
    invalid,
    kind,
    listed,
    path_text,
    scan_json,
    shown,
    similar,
    weight,
)

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

ROOT = "parameters"
_TYPE_WORDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "string": "a string",
}


@dataclass
class _Defaults:
    """The defaults below one schema. Not frozen, because a recursive schema refers to itself."""

    values: dict[str, JSON] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    inside: dict[str, _Defaults] = field(default_factory=dict)
    items: _Defaults | None = None
    finished: bool = False

    def fill(self, value: JSON) -> JSON:
        """The value with the defaults filled in; parts without defaults are shared with it, not copied."""
        if isinstance(value, dict):
            inside = self.inside
            filled = {name: inside[name].fill(one) if name in inside else one for name, one in value.items()}
            for name, default in self.values.items():
                if name not in filled:
                    spend(self.weights[name])
                    filled[name] = copy.deepcopy(default)
            return filled
        if isinstance(value, list) and self.items is not None:
            return [self.items.fill(one) for one in value]
        return value


class ParameterSchema:
    """The parameter schema of a pipeline, prepared to check many runs; `schema_faults` found no fault in it."""

    def __init__(self, schema: Schema) -> None:
        self._open = not set(schema) - {"type", "description", "title", "$schema", "$id", "$comment"}
        self._defaults = _read_defaults(schema)
        self._validator = validator_of(schema)

    def validate(self, parameters: object) -> dict[str, JSON]:
        """The parameters of a run with defaults filled in. Raises Invalid with paths like `parameters.scans[3]`."""
        if not isinstance(parameters, dict):
            raise invalid([Fault(ROOT, f"must be a mapping of names to values, not {kind(parameters)}")])
        if parameters and (found := scan_json(parameters, (ROOT,))).faults:
            raise invalid(found.faults)
        if self._open:
            return dict(parameters)
        try:
            with budget():
                filled: dict[str, JSON] = self._defaults.fill(parameters) if self._defaults else dict(parameters)
                faults = list(islice(_faults(self._validator.iter_errors(filled)), MAX_FAULTS))
        except RecursionError:
            faults = [Fault(ROOT, "are nested too deeply for the schema of this pipeline")]
        if faults:
            raise invalid(faults)
        return filled


def default_faults(schema: Schema) -> list[Fault]:
    """Defaults that the schema itself refuses."""
    try:
        with budget():
            _read_defaults(schema)
            return _default_faults(schema)
    except Invalid as error:
        return list(error.faults)
    except RecursionError:
        return [Fault(ROOT, "is nested too deeply")]


def _default_faults(schema: Schema) -> list[Fault]:
    faults: list[Fault] = []
    waiting: list[tuple[tuple[PathPart, ...], JSON]] = [((ROOT,), schema)]
    validator = validator_of(schema)
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        if "default" in node:
            for error in islice(validator.evolve(schema=node).iter_errors(node["default"]), 1):
                message = f"is refused by its own schema: {_sentence(error)}"
                faults.append(Fault(path_text([*path, "default", *error.absolute_path]), message))
        for keyword in ("properties", "$defs"):
            if isinstance(named := node.get(keyword), dict):
                waiting += [((*path, keyword, name), inner) for name, inner in named.items()]
        if "items" in node:
            waiting.append(((*path, "items"), node["items"]))
    return faults


# --- defaults -------------------------------------------------------------------------------------------------------


def _read_defaults(schema: Schema) -> _Defaults | None:
    known: dict[int, _Defaults] = {}
    with budget():
        defaults = _defaults_of(schema, schema, known)
    return defaults if any(one.values for one in known.values()) else None


def _defaults_of(node: JSON, root: Schema, known: dict[int, _Defaults]) -> _Defaults | None:
    node = resolved(node, root)
    if not isinstance(node, dict):
        return None
    if id(node) in known:
        return known[id(node)]
    found = known[id(node)] = _Defaults()
    for name, inner in node.get("properties", {}).items():
        below = _defaults_of(inner, root, known)
        if below is not None:
            found.inside[name] = below
        for candidate in (inner, resolved(inner, root)):
            if isinstance(candidate, dict) and "default" in candidate and name not in found.values:
                found.values[name] = below.fill(candidate["default"]) if below else candidate["default"]
        if name not in found.values and below is not None and _complete(resolved(inner, root), below):
            found.values[name] = below.fill({})
        if name in found.values:
            found.weights[name] = weight(found.values[name])
            spend(found.weights[name])
    if "items" in node:
        found.items = _defaults_of(node["items"], root, known)
    found.finished = True
    return found


def _complete(node: Schema, defaults: _Defaults) -> bool:
    """Whether the defaults of its parts make a complete object if none is given."""
    return (
        defaults.finished  # otherwise the object would contain itself
        and bool(defaults.values)
        and node.get("type", "object") == "object"
        and set(node.get("required", ())) <= set(defaults.values)
    )


# --- faults ---------------------------------------------------------------------------------------------------------


def _faults(errors: Iterator[ValidationError]) -> Iterator[Fault]:
    for error in errors:
        limit: Any = error.validator_value
        value: Any = error.instance
        schema: Any = error.schema
        path: list[PathPart] = [ROOT, *error.absolute_path]
        if error.validator == "required":
            missing = [name for name in limit if name not in value]
            others = [name for name in value if name not in schema.get("properties", {})]
            for name in missing:
                close = similar(name, others)
                hint = f"; {close} was given, which is not declared" if close is not None else ""
                yield Fault(path_text([*path, name]), f"is required{hint}")
        elif error.validator == "additionalProperties" and limit is False:
            known = schema.get("properties", {})
            hint = f"; there are {listed(known)}" if known else ""
            for name in additional(value, schema):
                yield Fault(path_text([*path, name]), f"is not a parameter of this pipeline{hint}")
        else:
            yield Fault(path_text(path), _sentence(error))


def _sentence(error: ValidationError) -> str:
    limit: Any = error.validator_value
    value: Any = error.instance
    rule = str(error.validator)
    match rule:
        case "type":
            wanted = [limit] if isinstance(limit, str) else limit
            what = f"the number {value:g}" if isinstance(value, float) else kind(value)
            return f"must be {' or '.join(_TYPE_WORDS[one] for one in wanted)}, not {what}"
        case "enum":
            return f"must be one of {listed(shown(one, 40) for one in limit)}; not {shown(value)}"
        case "const":
            return f"must be {shown(limit)}, not {shown(value)}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
            return f"must be {words.get(rule, 'less than')} {shown(limit)}, not {shown(value)}"
        case "multipleOf":
            return f"must be a multiple of {shown(limit)}, not {shown(value)}"
        case "minLength" | "maxLength":
            words = {"minLength": "at least", "maxLength": "at most"}
            return f"must have {words[rule]} {limit} characters; it has {len(value)}"
        case "minItems" | "maxItems" | "minProperties" | "maxProperties":
            word = "at least" if rule.startswith("min") else "at most"
            return f"must have {word} {limit} entries; it has {len(value)}"
        case "pattern":
            return f"must match the pattern {limit}; {shown(value)} does not"
        case "uniqueItems":
            return "must not hold the same value twice"
        case "anyOf" | "oneOf":
            return f"fits none of the forms that are allowed here, or more than one: {shown(value)}"
        case "None":
            return f"holds {shown(value)}, which the schema of this pipeline does not allow"
        case _:
            text = error.message
            return f"is refused: {text if len(text) <= 200 else text[:197] + '...'}"
