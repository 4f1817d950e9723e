"""PATCH: JSON patch, merge patch and strategic merge patch (lists merged by the keys that the schemas name)."""

from __future__ import annotations

import copy
from typing import Any

from tests.stand_ins.kubernetes import schemas
from tests.stand_ins.kubernetes.answers import ApiError, bad_request
from tests.stand_ins.kubernetes.models import Object

_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_JSON = "application/json-patch+json"


def patched(item: Object, patch: Any, content_type: str) -> Object:
    """The object with the patch applied. Raises BadRequest, UnsupportedMediaType."""
    kind = content_type.partition(";")[0].strip()
    if kind == _JSON:
        if not isinstance(patch, list):
            raise bad_request(
                "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
            )
        return _json_patch(item, patch)
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}")
    if kind == _MERGE:
        merged: Object = _merge(item, patch)
        return merged
    if kind == _STRATEGIC:
        strategic: Object = _strategic(item, patch, schemas.definition_of(item["kind"]))
        return strategic
    known = f"{_JSON}, {_MERGE}, {_STRATEGIC}"
    message = f"the body of the request was in an unknown format - accepted media types include: {known}"
    raise ApiError(415, "UnsupportedMediaType", message, {})


def _merge(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        if part is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), part)
    return merged


def _strategic(value: Any, patch: Any, name: str | None) -> Any:
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: part for key, part in patch.items() if key != "$patch"}
    properties = schemas.definition(name).get("properties", {}) if name else {}
    merged = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        schema = properties.get(key, {})
        if key.startswith("$"):
            continue
        if part is None:
            merged.pop(key, None)
        elif isinstance(part, list) and schema.get("x-kubernetes-patch-strategy", "").startswith("merge"):
            merged[key] = _merge_lists(merged.get(key) or [], part, schema)
        else:
            merged[key] = _strategic(merged.get(key), part, schemas.reference(schema))
    return merged


def _merge_lists(old: list[Any], patch: list[Any], schema: Object) -> list[Any]:
    key = schema.get("x-kubernetes-patch-merge-key")
    if key is None:
        return old + [one for one in patch if one not in old]
    merged = list(old)
    for one in patch:
        place = next((index for index, other in enumerate(merged) if other.get(key) == one.get(key)), None)
        if one.get("$patch") == "delete":
            merged = [other for other in merged if other.get(key) != one.get(key)]
        elif place is None:
            merged.append(one)
        else:
            merged[place] = _strategic(merged[place], one, schemas.reference(schema.get("items") or {}))
    return merged


def _json_patch(item: Object, operations: list[Any]) -> Object:
    result = copy.deepcopy(item)
    for operation in operations:
        kind = operation.get("op") if isinstance(operation, dict) else None
        if kind not in ("add", "remove", "replace", "test"):
            raise bad_request(f"Unexpected kind: {kind}")
        parts = [part.replace("~1", "/").replace("~0", "~") for part in str(operation.get("path", "")).split("/")[1:]]
        try:
            _apply(result, kind, parts, operation.get("value"))
        except (KeyError, IndexError, ValueError, TypeError) as error:
            message = f"the server rejected our request due to an error in our request: {kind} {operation.get('path')}"
            raise ApiError(422, "Invalid", message, {}) from error
    return result


def _apply(target: Any, kind: str, parts: list[str], value: Any) -> None:
    *way, last = parts
    for part in way:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if isinstance(target, list):
        if kind == "add":
            target.insert(len(target) if last == "-" else int(last), value)
            return
        place: Any = int(last)
    else:
        place = last
    if kind == "remove":
        del target[place]
    elif kind == "test":
        if target[place] != value:
            raise ValueError(f"{place} is {target[place]!r}")
    else:
        if kind == "replace":
            target[place]
        target[place] = value
