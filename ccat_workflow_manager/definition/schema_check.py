"""Check of the JSON Schema in `parameters` of a definition, and what the schema says about a parameter.

Only references inside the schema are allowed: nothing is ever fetched, and no chain of references is endless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ccat_workflow_manager.definition.patterns import pattern_problem
from ccat_workflow_manager.errors import MAX_FAULTS, Fault
from ccat_workflow_manager.json_values import JSON, MAX_DEPTH, PathPart, kind, listed, path_text, shown

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")

Schema = Mapping[str, JSON]

_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONE_SCHEMA = (
    "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
_SAME_INSTANCE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords that apply a schema to the same value as the schema around it: a cycle through these never ends."""
_NOT_HERE = ("$dynamicRef", "$recursiveRef")
_PATH: tuple[PathPart, ...] = ("parameters",)
_LISTS = ("required", "type", "dependentRequired")
MAX_SCHEMAS = 2000
MAX_ENTRIES = 10_000
MAX_PATTERNS = 100
"""Checking a schema takes 2 ms for each schema in it, 25 microseconds for each entry of such a list."""


def subschemas(node: Schema) -> Iterator[tuple[tuple[PathPart, ...], JSON]]:
    """The schemas directly inside a schema, with their paths."""
    for keyword in _MAPS_OF_SCHEMAS:
        if isinstance(inner := node.get(keyword), dict):
            yield from (((keyword, name), value) for name, value in inner.items())
    for keyword in _LISTS_OF_SCHEMAS:
        if isinstance(inner := node.get(keyword), list):
            yield from (((keyword, index), value) for index, value in enumerate(inner))
    for keyword in _ONE_SCHEMA:
        if keyword in node:
            yield (keyword,), node[keyword]


def resolved(node: JSON, root: Schema) -> JSON:
    """`node`, or the schema that its local references lead to."""
    for _ in range(MAX_DEPTH):
        if not isinstance(node, dict) or not isinstance(node.get("$ref"), str):
            return node
        found, node = _target(node["$ref"], root)
        if not found:
            return True
    return True


def _target(reference: str, root: Schema) -> tuple[bool, JSON]:
    """Follow a JSON Pointer such as `#/$defs/position`. Returns whether it leads anywhere, and where."""
    node: JSON = root
    for part in unquote(reference).split("/")[1:] if reference.startswith("#/") else []:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return False, None
    return reference == "#" or reference.startswith("#/"), node


# --- is it a schema? ------------------------------------------------------------------------------------------------


def schema_faults(schema: object) -> list[Fault]:
    """All faults of a JSON Schema for parameters."""
    if not isinstance(schema, dict):
        return [Fault(path_text(_PATH), f"must be a JSON Schema (a mapping with `type: object`), not {kind(schema)}")]
    faults = []
    if schema.get("type", "object") != "object":
        message = f"must be object, because parameters always have names; not {shown(schema['type'])}"
        faults.append(Fault(path_text([*_PATH, "type"]), message))
    walk = _Walk(schema, _PATH)
    walk.visit(schema, ())
    if too_much := walk.too_much():
        return [*faults, Fault(path_text(_PATH), too_much)]
    walk.check_patterns()
    walk.check_references()
    faults += walk.faults
    for error in islice(_metaschema().iter_errors(schema), MAX_FAULTS):
        faults.append(Fault(path_text([*_PATH, *error.absolute_path]), _schema_message(error)))
    return faults


@lru_cache(maxsize=1)
def _metaschema() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(Draft202012Validator.META_SCHEMA)


def _schema_message(error: ValidationError) -> str:
    last = error.absolute_path[-1] if error.absolute_path else ""
    if last == "type":
        return f"must be one of {', '.join(TYPES)}, or a list of these; not {shown(error.instance)}"
    if error.validator == "type":
        wanted = error.validator_value
        names = {"object": "a mapping", "array": "a list", "integer": "a whole number", "number": "a number"}
        if wanted == ["object", "boolean"]:
            return f"must be a schema (a mapping, or true or false), not {kind(error.instance)}"
        if isinstance(wanted, str):
            return f"must be {names.get(wanted, f'a {wanted}')}, not {kind(error.instance)}"
    return f"is not allowed in a JSON Schema: {error.message[:200]}"


@dataclass
class _Walk:
    """Visits every schema inside a schema and finds the faults that the metaschema cannot express."""

    root: Schema
    path: tuple[PathPart, ...]
    faults: list[Fault] = field(default_factory=list)
    same_value: dict[int, list[int]] = field(default_factory=dict)
    """For each schema those that are applied to the same value because of it, by id."""
    unevaluated: bool = False
    schemas: int = 0
    entries: int = 0
    patterns: list[tuple[tuple[PathPart, ...], object]] = field(default_factory=list)
    references: list[tuple[int, tuple[PathPart, ...], str]] = field(default_factory=list)

    def visit(self, node: JSON, at: tuple[PathPart, ...]) -> None:
        if not isinstance(node, dict) or self.schemas > MAX_SCHEMAS:
            return
        self.schemas += 1
        self.same_value[id(node)] = []
        self._check_keywords(node, at)
        for where, inner in subschemas(node):
            if where[0] in _SAME_INSTANCE:
                self.same_value[id(node)].append(id(inner))
            self.visit(inner, (*at, *where))

    def _check_keywords(self, node: Schema, at: tuple[PathPart, ...]) -> None:
        if isinstance(reference := node.get("$ref"), str):
            self.references.append((id(node), (*at, "$ref"), reference))
        for keyword in _NOT_HERE:
            if keyword in node:
                self._fault((*at, keyword), "is not supported; use $ref with #/$defs/NAME")
        if node.get("$schema", DIALECT) not in (DIALECT, DIALECT + "#"):
            self._fault((*at, "$schema"), f"must be {DIALECT}, the only dialect that is understood here")
        for keyword in ("$id", "$schema") if at else ():
            if keyword in node:
                self._fault((*at, keyword), "is not supported inside a schema")
        self.entries += sum(len(node[name]) for name in _LISTS if isinstance(node.get(name), list | dict))
        self.unevaluated = self.unevaluated or "unevaluatedProperties" in node
        if "pattern" in node:
            self.patterns.append(((*at, "pattern"), node["pattern"]))
        if isinstance(named := node.get("patternProperties"), dict):
            self.patterns += [((*at, "patternProperties", name), name) for name in named]

    def too_much(self) -> str | None:
        """Why the schema is too large to be checked further."""
        counts = ((self.schemas, MAX_SCHEMAS, "schemas"), (self.entries, MAX_ENTRIES, f"entries of {listed(_LISTS)}"))
        for count, most, what in (*counts, (len(self.patterns), MAX_PATTERNS, "patterns")):
            if count > most:
                return f"holds more than {most} {what}"
        return None

    def check_patterns(self) -> None:
        for where, pattern in self.patterns:
            if isinstance(pattern, str) and (problem := pattern_problem(pattern)):
                self._fault(where, f"is not a regular expression that can be used here: {problem}")
            if self.unevaluated and "patternProperties" in where:
                self._fault(where, "cannot be used beside unevaluatedProperties; use additionalProperties")

    def check_references(self) -> None:
        for owner, at, reference in self.references:
            found, target = _target(reference, self.root)
            if not reference.startswith("#"):
                self._fault(
                    at, "must point inside this schema, such as #/$defs/NAME; nothing is fetched from elsewhere"
                )
            elif not found or (id(target) not in self.same_value and not isinstance(target, bool)):
                self._fault(at, f"points to no schema in here: {shown(reference)}; write it as #/$defs/NAME")
            else:
                self.same_value[owner].append(id(target))
        endless = self._endless()
        for owner, at, _ in self.references:
            if owner in endless:
                self._fault(at, f"leads in a circle, or through more than {MAX_DEPTH} schemas for one value")

    def _endless(self) -> set[int]:
        """The schemas that start a chain of more than MAX_DEPTH schemas for one value, or an endless one."""
        deep = set(self.same_value)
        for _ in range(MAX_DEPTH):
            deep = {node for node in deep if any(target in deep for target in self.same_value[node])}
        return deep

    def _fault(self, at: tuple[PathPart, ...], message: str) -> None:
        self.faults.append(Fault(path_text([*self.path, *at]), message))


# --- what it says about one parameter -------------------------------------------------------------------------------


def reference_problem(schema: object, names: Sequence[str]) -> str | None:
    """Why `${parameters.<names>}` cannot be meant, as far as the schema shows."""
    node: Any = schema
    for depth, name in enumerate(names):
        node = resolved(node, schema if isinstance(schema, dict) else {})
        if not isinstance(node, dict):
            node = {}
        properties = node.get("properties")
        text = "${parameters." + ".".join(names[: depth + 1]) + "}"
        if depth and "object" not in _types(node):
            return f"uses {text}, but {'.'.join(names[:depth])} is declared as {listed(_types(node))} and has no parts"
        if not isinstance(properties, dict) or name not in properties:
            if depth and (not isinstance(properties, dict) or any(keyword in node for keyword in _SAME_INSTANCE)):
                return None  # an object whose parts are not spelled out here
            if not isinstance(properties, dict) or not properties:
                return f"uses {text}, but this pipeline declares no parameters"
            return f"uses {text}, which is not declared under `parameters.properties`; there are {listed(properties)}"
        node = properties[name]
    return None


def declared_types(schema: Schema, names: Sequence[str]) -> Sequence[str] | None:
    """The types a declared parameter may have; None when its schema does not say."""
    node: Any = schema
    for name in names:
        node = resolved(node, schema)
        properties = node.get("properties") if isinstance(node, dict) else None
        if not isinstance(properties, dict) or name not in properties:
            return None
        node = properties[name]
    node = resolved(node, schema)
    return _types(node) if isinstance(node, dict) and "type" in node else None


def _types(node: Schema) -> Sequence[str]:
    declared = node.get("type", TYPES)
    return [declared] if isinstance(declared, str) else [str(one) for one in declared] if declared else []
