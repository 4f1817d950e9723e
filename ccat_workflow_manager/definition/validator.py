"""A validator of JSON Schema with a budget: it counts what it visits and gives up beyond SCHEMA_VISITS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from ccat_workflow_manager.definition import patterns
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import JSON, canonical_json, weight, whole_numbers
from ccat_workflow_manager.limits import limits

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

Keyword = Callable[[Any, Any, Any, Any], "Iterator[ValidationError] | None"]

_LONGEST_MESSAGE = 300
_STEPS_OF_ONE_VISIT = 512
"""Instructions of a pattern times bytes of text that cost as much as one visit."""
_left: ContextVar[list[int]] = ContextVar("visits left")


@contextmanager
def budget() -> Iterator[None]:
    """The validators that run in this block share one budget. Raises Invalid when it is spent."""
    token = _left.set([limits().schema_visits])
    try:
        yield
    finally:
        _left.reset(token)


def spend(visits: int) -> None:
    """Take this much from the budget."""
    left = _left.get()
    left[0] -= visits
    if left[0] < 0:
        most = limits().schema_visits
        message = f"take more than {most} visits to check by this schema; make it simpler, or raise SCHEMA_VISITS"
        raise Invalid(faults=[Fault("parameters", message)])


def validator_of(schema: Mapping[str, JSON]) -> Any:
    """A validator for this schema, for use within `budget`."""
    from referencing import Registry

    # The library would validate a schema with `$schema` by its own class. An empty registry fetches nothing.
    return _validator_class()({name: value for name, value in schema.items() if name != "$schema"}, registry=Registry())


# --- keywords -------------------------------------------------------------------------------------------------------


def _counted(keyword: Keyword, extra: Callable[[Any, Any], int] | None) -> Keyword:
    """The keyword with its price: each schema below it, what `extra` adds, and the values that a message shows."""

    def counted(validator: Any, limit: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        below = len(limit) if isinstance(limit, list | dict) else 0
        spend(1 + below + (extra(limit, instance) if extra is not None else 0))
        for error in keyword(validator, limit, instance, schema) or ():
            if not isinstance(error.validator, str):  # not counted on a lower level
                spend(weight(instance))
                error.message = error.message[:_LONGEST_MESSAGE]
            yield error

    return counted


def _pattern(_: Any, pattern: str, instance: JSON, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str):
        spend(_pattern_price(pattern, instance))
        if not patterns.found(pattern, instance):
            yield _error("does not match")


def _pattern_properties(validator: Any, named: JSON, instance: JSON, _: Any) -> Iterator[ValidationError]:
    for pattern, below in named.items() if isinstance(instance, dict) else ():
        for name, value in instance.items():
            spend(1 + _pattern_price(pattern, name))
            if patterns.found(pattern, name):
                yield from validator.descend(value, below, path=name, schema_path=pattern)


def _additional_properties(validator: Any, below: JSON, instance: JSON, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    extra = additional(instance, schema)
    if isinstance(below, dict):
        for name in extra:
            yield from validator.descend(instance[name], below, path=name)
    elif not below and any(True for _ in extra):
        yield _error("has additional properties")


def additional(instance: Mapping[str, JSON], schema: Mapping[str, Any]) -> Iterator[str]:
    """The names in `instance` that neither `properties` nor `patternProperties` of the schema covers."""
    known, named = schema.get("properties", {}), schema.get("patternProperties", {})
    for name in instance:
        if name not in known:
            spend(1 + sum(1 + _pattern_price(pattern, name) for pattern in named))
            if not any(patterns.found(pattern, name) for pattern in named):
                yield name


def _pattern_price(pattern: str, text: str) -> int:
    return len(text) * patterns.size(pattern) // _STEPS_OF_ONE_VISIT


def _unique_items(_: Any, wanted: bool, instance: JSON, __: Any) -> Iterator[ValidationError]:
    """`uniqueItems` of the standard in one pass: the library compares every pair of objects."""
    if not wanted or not isinstance(instance, list):
        return
    if len({canonical_json(whole_numbers(one)) for one in instance}) < len(instance):
        yield _error("has non-unique elements")


def _of_value(_: Any, instance: JSON) -> int:
    return weight(instance)


def _of_entries(_: Any, instance: JSON) -> int:
    return len(instance) if isinstance(instance, list | dict) else 0


_OWN: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
_EXTRA: dict[str, Callable[[Any, Any], int]] = {
    "const": _of_value,
    "uniqueItems": _of_value,
    "enum": lambda members, instance: len(members) * weight(instance) // 16,
    "contains": _of_entries,
    "items": _of_entries,
    "propertyNames": _of_entries,
    "unevaluatedItems": _of_entries,
    "unevaluatedProperties": lambda limit, instance: _of_entries(limit, instance) ** 2 // 256,
}


def _error(message: str) -> ValidationError:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)


@cache
def _validator_class() -> Any:
    # Imported here: most processes never see a schema, and the library takes several megabytes.
    from jsonschema import Draft202012Validator, validators

    keywords: dict[str, Any] = dict(Draft202012Validator.VALIDATORS) | _OWN
    counted = {name: _counted(keyword, _EXTRA.get(name)) for name, keyword in keywords.items()}
    return validators.extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]
