"""Strategic merge patches, as `kubectl patch` has them, for the template of a pod. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists whose items are merged one by one, and by which of their fields; every other list is replaced."""
_DIRECTIVE = "$patch"


def merged(original: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The original with the patch applied; null takes a field away, `$patch: replace` or `delete` as in Kubernetes.

    Raises ValueError for a patch that cannot be meant.
    """
    directive = patch.get(_DIRECTIVE)
    rest = {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "replace":
        return deepcopy(rest)
    if directive is not None and directive != "merge":
        raise ValueError(f"$patch: {directive} is not possible here")
    result = deepcopy(dict(original))
    for key, value in rest.items():
        before = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merged(before if isinstance(before, Mapping) else {}, value)
        elif key in _MERGE_KEYS and isinstance(value, list):
            result[key] = _merged_list(before if isinstance(before, list) else [], value, key)
        else:
            result[key] = deepcopy(value)
    return result


def _merged_list(original: Sequence[Any], patch: Sequence[Any], name: str) -> list[Any]:
    key = _MERGE_KEYS[name]
    result = [] if {_DIRECTIVE: "replace"} in patch else [deepcopy(item) for item in original]
    for item in patch:
        if item == {_DIRECTIVE: "replace"}:
            continue
        if not isinstance(item, Mapping) or key not in item:
            raise ValueError(f"an item of {name} has no {key}")
        same = next((place for place, each in enumerate(result) if each.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            if same is not None:
                del result[same]
        elif same is None:
            result.append(merged({}, item))
        else:
            result[same] = merged(result[same], item)
    return result
