"""What the spec of a pod may say, beyond the types of its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.stand_ins.kubernetes import quantities
from tests.stand_ins.kubernetes.answers import Cause
from tests.stand_ins.kubernetes.models import Object

_DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_DNS_LABEL}')"
)
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_SIMPLE = ("cpu", "memory", "ephemeral-storage", "storage")


def pod_causes(spec: Object, field: str) -> Iterator[Cause]:
    """Everything that is wrong."""
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    yield from _volume_causes(spec, f"{field}.volumes")
    if not spec.get("containers"):
        yield Cause("FieldValueRequired", "Required value", f"{field}.containers")
    seen: set[str] = set()
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or ()):
            place = f"{field}.{kind}[{index}]"
            yield from _container_causes(container, place, volumes)
            name = container.get("name", "")
            if name in seen:
                yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', f"{place}.name")
            seen.add(name)
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0:
        message = f"Invalid value: {grace}: must be greater than or equal to 0"
        yield Cause("FieldValueInvalid", message, f"{field}.terminationGracePeriodSeconds")
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from _toleration_causes(toleration, f"{field}.tolerations[{index}]")


def _volume_causes(spec: Object, field: str) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        place, name = f"{field}[{index}]", volume.get("name", "")
        yield from _label_name(name, f"{place}.name")
        if name in seen:
            yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', f"{place}.name")
        seen.add(name)
        kinds = [key for key, value in volume.items() if key != "name" and value is not None]
        if not kinds:
            yield Cause("FieldValueRequired", "Required value: must specify a volume type", place)
        for extra in kinds[1:]:
            message = "Forbidden: may not specify more than 1 volume type"
            yield Cause("FieldValueForbidden", message, f"{place}.{extra}")
        if "hostPath" in kinds and not volume["hostPath"].get("path"):
            yield Cause("FieldValueRequired", "Required value", f"{place}.hostPath.path")
        if "persistentVolumeClaim" in kinds and not volume["persistentVolumeClaim"].get("claimName"):
            yield Cause("FieldValueRequired", "Required value", f"{place}.persistentVolumeClaim.claimName")


def _container_causes(container: Object, place: str, volumes: set[str]) -> Iterator[Cause]:
    yield from _label_name(container.get("name", ""), f"{place}.name")
    if not container.get("image"):
        yield Cause("FieldValueRequired", "Required value", f"{place}.image")
    policy = container.get("imagePullPolicy")
    if policy is not None and policy not in _PULL_POLICIES:
        known = ", ".join(f'"{one}"' for one in _PULL_POLICIES)
        message = f'Unsupported value: "{policy}": supported values: {known}'
        yield Cause("FieldValueNotSupported", message, f"{place}.imagePullPolicy")
    message_policy = container.get("terminationMessagePolicy")
    if message_policy not in (None, "File", "FallbackToLogsOnError"):
        message = f'Unsupported value: "{message_policy}": supported values: "FallbackToLogsOnError", "File"'
        yield Cause("FieldValueNotSupported", message, f"{place}.terminationMessagePolicy")
    for index, variable in enumerate(container.get("env") or ()):
        if not variable.get("name"):
            yield Cause("FieldValueRequired", "Required value", f"{place}.env[{index}].name")
    yield from _mount_causes(container, place, volumes)
    yield from _resource_causes(container.get("resources") or {}, f"{place}.resources")


def _mount_causes(container: Object, place: str, volumes: set[str]) -> Iterator[Cause]:
    targets: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where, name, target = f"{place}.volumeMounts[{index}]", mount.get("name", ""), mount.get("mountPath", "")
        if name not in volumes:
            yield Cause("FieldValueNotFound", f'Not found: "{name}"', f"{where}.name")
        if not target:
            yield Cause("FieldValueRequired", "Required value", f"{where}.mountPath")
        elif target in targets:
            message = f'Invalid value: "{target}": must be unique'
            yield Cause("FieldValueInvalid", message, f"{where}.mountPath")
        targets.add(target)


def _resource_causes(resources: Object, field: str) -> Iterator[Cause]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            place = f"{field}.{kind}[{name}]"
            if quantities.parse(amount) < 0:
                message = f'Invalid value: "{amount}": must be greater than or equal to 0'
                yield Cause("FieldValueInvalid", message, place)
            elif "/" in name and quantities.parse(amount) % 1:
                yield Cause("FieldValueInvalid", f'Invalid value: "{amount}": must be an integer', place)
            elif "/" not in name and name not in _SIMPLE and not name.startswith("hugepages-"):
                message = f'Invalid value: "{name}": must be a standard resource for containers'
                yield Cause("FieldValueInvalid", message, place)
    for name, amount in requests.items():
        limit = limits.get(name)
        if "/" in name and limit is None:
            yield Cause(
                "FieldValueRequired",
                "Required value: Limit must be set for non overcommitable resources",
                f"{field}.limits",
            )
        elif limit is not None and quantities.parse(amount) > quantities.parse(limit):
            message = f'Invalid value: "{amount}": must be less than or equal to {name} limit of {limit}'
            yield Cause("FieldValueInvalid", message, f"{field}.requests")


def _toleration_causes(toleration: Object, place: str) -> Iterator[Cause]:
    operator = toleration.get("operator")
    if operator not in (None, "Exists", "Equal"):
        message = f'Unsupported value: "{operator}": supported values: "Equal", "Exists"'
        yield Cause("FieldValueNotSupported", message, f"{place}.operator")
    if operator == "Exists" and toleration.get("value"):
        message = f"Invalid value: \"{toleration['value']}\": value must be empty when `operator` is 'Exists'"
        yield Cause("FieldValueInvalid", message, f"{place}.operator")


def _label_name(name: str, place: str) -> Iterator[Cause]:
    if not name:
        yield Cause("FieldValueRequired", "Required value", place)
    elif len(name) > 63:
        yield Cause("FieldValueInvalid", f'Invalid value: "{name}": must be no more than 63 characters', place)
    elif not re.fullmatch(_DNS_LABEL, name):
        yield Cause("FieldValueInvalid", f'Invalid value: "{name}": {_DNS_MESSAGE}', place)
