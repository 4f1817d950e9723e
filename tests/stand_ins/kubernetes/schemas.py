"""The official schemas of Kubernetes, from the package kubernetes-validate: they check types and drop the unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from ccat_workflow_manager.errors import ConfigurationError
from tests.stand_ins.kubernetes.models import Object

SCHEMA_VERSION = "v1.37.0"

_DEFINITIONS = {"Job": "io.k8s.api.batch.v1.Job", "Pod": "io.k8s.api.core.v1.Pod",
                "Namespace": "io.k8s.api.core.v1.Namespace", "Event": "io.k8s.api.core.v1.Event",
                "DeleteOptions": "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"}  # fmt: skip
_SINCE_1_20 = {
    "JobSpec": {"backoffLimitPerIndex", "completionMode", "managedBy", "maxFailedIndexes", "podFailurePolicy",
                "podReplacementPolicy", "successPolicy", "suspend"},
}  # fmt: skip
"""Fields that a 1.20 does not know."""


def type_faults(item: Object) -> list[ValidationError]:
    """What the schema of the object's kind says against it."""
    return sorted(_validator(item["kind"]).iter_errors(item), key=lambda error: [str(part) for part in error.path])


def prune(item: Object, *, old: bool = False) -> tuple[Object, list[str]]:
    """The object without the fields that its kind does not have, and where those were."""
    unknown: list[str] = []
    kept = _prune(item, _DEFINITIONS[item["kind"]], "", old, unknown)
    return kept, unknown


def definition(name: str) -> Object:
    """One definition, by its full name."""
    found: Object = _definitions()["$defs"][name]
    return found


def definition_of(kind: str) -> str:
    return _DEFINITIONS[kind]


def reference(schema: Object) -> str | None:
    """The definition that a property refers to, itself or in one of its alternatives."""
    candidates: Iterator[Object] = iter([schema, *schema.get("oneOf", ()), *schema.get("anyOf", ())])
    return next((str(one["$ref"]).rpartition("/")[2] for one in candidates if "$ref" in one), None)


def _prune(value: Any, name: str, path: str, old: bool, unknown: list[str]) -> Any:
    properties = definition(name).get("properties")
    if not isinstance(value, dict) or properties is None:
        return value
    newer = _SINCE_1_20.get(name.rpartition(".")[2], set()) if old else set()
    kept = {}
    for key, part in value.items():
        place = f"{path}.{key}" if path else key
        if key not in properties or key in newer:
            unknown.append(place)
        else:
            kept[key] = _prune_part(part, properties[key], place, old, unknown)
    return kept


def _prune_part(part: Any, schema: Object, place: str, old: bool, unknown: list[str]) -> Any:
    if name := reference(schema):
        return _prune(part, name, place, old, unknown)
    if isinstance(part, list) and (name := reference(schema.get("items") or {})):
        return [_prune(one, name, f"{place}[{index}]", old, unknown) for index, one in enumerate(part)]
    return part


@cache
def _definitions() -> Object:
    try:
        package = resources.files("kubernetes_validate")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "the stand-in Kubernetes server needs the Python package kubernetes-validate"
        ) from error
    path = package / "kubernetes-json-schema" / f"{SCHEMA_VERSION}-local" / "_definitions.json"
    found: Object = json.loads(path.read_text(encoding="utf-8"))
    return found


@cache
def _validator(kind: str) -> Draft202012Validator:
    registry: Registry[Any] = Resource.from_contents(_definitions()) @ Registry()
    base = _definitions()["$id"]
    return Draft202012Validator({"$ref": f"{base}#/$defs/{_DEFINITIONS[kind]}"}, registry=registry)
