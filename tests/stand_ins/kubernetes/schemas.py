"""The official schemas of Kubernetes, from the package kubernetes-validate: types, required and unknown fields.

`kubernetes_validate.validate` reads all schemas anew for each object; here they are read once.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing import Resource as Document

from tests.stand_ins.kubernetes.errors import Cause, bad_request, invalid
from tests.stand_ins.kubernetes.objects import Object, Resource

_FOLDER = "v1.37.0-local-strict"
_DEFINITIONS = {"Job": "io.k8s.api.batch.v1.Job", "Pod": "io.k8s.api.core.v1.Pod", "Event": "io.k8s.api.core.v1.Event"}
_SINCE_1_20 = {
    "backoffLimitPerIndex", "completionMode", "managedBy", "maxFailedIndexes", "podFailurePolicy",
    "podReplacementPolicy", "successPolicy", "suspend",
}  # fmt: skip
"""Fields of a Job's spec that a 1.20 does not know."""


@cache
def validator(kind: str) -> Draft202012Validator:
    """For Job, Pod and Event. It is strict: unknown fields are errors."""
    path = resources.files("kubernetes_validate") / "kubernetes-json-schema" / _FOLDER / "_definitions.json"
    definitions = json.loads(path.read_text(encoding="utf-8"))
    registry: Registry[Any] = Document.from_contents(definitions) @ Registry()
    return Draft202012Validator({"$ref": f"{definitions['$id']}#/$defs/{_DEFINITIONS[kind]}"}, registry=registry)


def read(resource: Resource, data: Any, *, old: bool) -> Object:
    """The object of a request body, without the fields that the server does not know. Raises BadRequest, Invalid."""
    if not isinstance(data, dict):
        raise bad_request("couldn't get version/kind; json parse error: json: cannot unmarshal into Go value")
    kind, version = data.get("kind") or resource.kind, data.get("apiVersion") or resource.api_version
    where = f'{kind} in version "{version.rpartition("/")[2]}" cannot be handled as a {resource.kind}'
    if (kind, version) != (resource.kind, resource.api_version):
        why = f'no kind "{kind}" is registered for version "{version}" in scheme'
        raise bad_request(f'{where}: {why} "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30"')
    item = copy.deepcopy({**data, "kind": kind, "apiVersion": version})
    for error in list(validator(kind).iter_errors(item)):
        path = error.json_path.removeprefix("$.")
        if error.validator == "additionalProperties":
            for unknown in error.instance.keys() - error.schema["properties"].keys():
                del error.instance[unknown]
        elif error.validator == "required":
            raise _required(resource, item, f"{path}.{error.message.split(chr(39))[1]}")
        else:
            raise bad_request(f"{where}: json: cannot unmarshal into Go struct field {path}: {error.message}")
    if not isinstance((item.get("spec") or {}).get("template"), dict):
        raise _required(resource, item, "spec.template")
    if old:
        item["spec"] = {key: value for key, value in item["spec"].items() if key not in _SINCE_1_20}
    return item


def _required(resource: Resource, item: Object, field: str) -> Exception:
    name = (item.get("metadata") or {}).get("name", "")
    return invalid(resource, name, [Cause("FieldValueRequired", "Required value", field)])
