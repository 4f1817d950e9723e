"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from tests.stand_ins.kubernetes.answers import EVENTS, JOBS, PODS, Resource, bad_request
from tests.stand_ins.kubernetes.models import Object

Selector: TypeAlias = Callable[[Object], bool]

_KEY = r"[A-Za-z0-9][-A-Za-z0-9_./]*"
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_EQUAL = re.compile(rf"({_KEY})\s*(==|=|!=)\s*([-A-Za-z0-9_.]*)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")

_FIELDS: dict[str, dict[str, str]] = {
    JOBS.plural: {"status.successful": "status.succeeded"},
    PODS.plural: dict.fromkeys(
        ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase",
         "status.podIP", "status.nominatedNodeName"),
        "",
    ),
    EVENTS.plural: dict.fromkeys(
        ("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
         "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
         "reportingComponent", "source", "type"),
        "",
    ),
}  # fmt: skip
"""Resource -> field that may be selected by -> where it is, if elsewhere."""


def selector(resource: Resource, labels: str, fields: str) -> Selector:
    """Both conditions together. Raises BadRequest."""
    conditions = [*_labels(labels), *_fields(resource, fields)]
    return lambda item: all(condition(item) for condition in conditions)


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _labels(text: str) -> list[Selector]:
    found: list[Selector] = []
    rest = text.strip()
    while rest:
        condition, end = _one_label(rest, text)
        found.append(condition)
        rest = rest[end:].lstrip()
        if rest and not rest.startswith(","):
            raise bad_request(
                f"unable to parse requirement: found '{rest.split()[0]}', expected: ',' or 'end of string'"
            )
        rest = rest[1:].lstrip()
    return found


def _one_label(rest: str, text: str) -> tuple[Selector, int]:
    if match := _SET.match(rest):
        key, word, inside = match.groups()
        values = {value.strip() for value in inside.split(",")}
        if word == "in":
            return (lambda item: _label(item, key) in values), match.end()
        return (lambda item: _label(item, key) not in values), match.end()
    if match := _EQUAL.match(rest):
        key, sign, value = match.groups()
        if sign == "!=":
            return (lambda item: _label(item, key) != value), match.end()
        return (lambda item: _label(item, key) == value), match.end()
    if re.match(rf"{_KEY}\s+(in|notin)\s*\(", rest):
        raise bad_request("unable to parse requirement: found '', expected: ',', ')' or identifier")
    match = _EXISTS.match(rest)
    if match is None:
        raise bad_request(f"unable to parse requirement: found '{rest}', expected: !, identifier, or 'end of string'")
    absent, key = match.groups()
    if absent:
        return (lambda item: _label(item, key) is None), match.end()
    return (lambda item: _label(item, key) is not None), match.end()


def _label(item: Object, key: str) -> str | None:
    value = (item["metadata"].get("labels") or {}).get(key)
    return None if value is None else str(value)


def _fields(resource: Resource, text: str) -> list[Selector]:
    known = {"metadata.name": "", "metadata.namespace": "", **_FIELDS.get(resource.plural, {})}
    return [_one_field(part.strip(), text, known) for part in text.split(",") if part.strip()]


def _one_field(part: str, text: str, known: dict[str, str]) -> Selector:
    match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part)
    if match is None:
        raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
    name, sign, value = (group.strip() for group in match.groups())
    if name not in known:
        raise bad_request(f'Unable to find "{text}" that match label selector "", field selector "{text}": '
                          f"field label not supported: {name}")  # fmt: skip
    path = (known[name] or name).split(".")
    if sign == "!=":
        return lambda item: _at(item, path) != value
    return lambda item: _at(item, path) == value


def _at(item: Object, path: list[str]) -> str:
    value: object = item
    for word in path:
        value = value.get(word) if isinstance(value, dict) else None
    if value is None:
        return "0" if path[-1] == "succeeded" else ""
    return str(value)
