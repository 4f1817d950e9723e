"""What a Job or a Pod may say, beyond the types of its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.stand_ins.kubernetes import answers
from tests.stand_ins.kubernetes.answers import JOBS, PODS, Cause, Resource
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.pod_validation import pod_causes

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_LABEL_KEY = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_NAME_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_LABEL_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{_LABEL_VALUE}')"
)
_KEY_MESSAGE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_JOB_NUMBERS = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")


def check_new(resource: Resource, item: Object) -> None:
    """Raises Invalid with everything that is wrong."""
    causes = [*_metadata_causes(item)]
    if resource is JOBS:
        causes += _job_causes(item["spec"])
    elif resource is PODS:
        causes += pod_causes(item.get("spec") or {}, "spec")
    if causes:
        raise answers.invalid(resource, item["metadata"].get("name", ""), causes)


def check_change(resource: Resource, before: Object, after: Object) -> None:
    """What may not be changed. Raises Invalid."""
    causes = [*_metadata_causes(after)]
    if resource is JOBS:
        old, new = before["spec"], after["spec"]
        causes += [
            Cause("FieldValueInvalid", f"Invalid value: {_shown(new.get(name))}: field is immutable", f"spec.{name}")
            for name in ("completions", "selector", "template", "completionMode", "podFailurePolicy")
            if old.get(name) != new.get(name)
        ]
        causes += _numbers(new, _JOB_NUMBERS, "spec")
    elif resource is PODS and _fixed(before["spec"]) != _fixed(after["spec"]):
        message = (
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, "
            "`spec.initContainers[*].image`, `spec.activeDeadlineSeconds` or `spec.tolerations` (only additions to "
            "existing tolerations)"
        )
        causes.append(Cause("FieldValueForbidden", message, "spec"))
    if causes:
        raise answers.invalid(resource, after["metadata"]["name"], causes)


def _fixed(spec: Object) -> Object:
    may_change = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds")
    kept = {key: value for key, value in spec.items() if key not in may_change}
    kept["containers"] = [{**one, "image": ""} for one in spec.get("containers", ())]
    return kept


def _metadata_causes(item: Object) -> Iterator[Cause]:
    metadata = item["metadata"]
    name = metadata.get("name")
    if not name:
        yield Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
    elif len(name) > 253:
        message = f"Invalid value: {_shown(name)}: must be no more than 253 characters"
        yield Cause("FieldValueInvalid", message, "metadata.name")
    elif not re.fullmatch(_SUBDOMAIN, name):
        yield Cause("FieldValueInvalid", f"Invalid value: {_shown(name)}: {_NAME_MESSAGE}", "metadata.name")
    yield from label_causes(metadata.get("labels") or {}, "metadata.labels")
    for key in metadata.get("annotations") or {}:
        if not _good_key(key):
            yield Cause("FieldValueInvalid", f"Invalid value: {_shown(key)}: {_KEY_MESSAGE}", "metadata.annotations")


def label_causes(labels: Mapping[str, str], field: str) -> Iterator[Cause]:
    for key, value in labels.items():
        if not _good_key(key):
            yield Cause("FieldValueInvalid", f"Invalid value: {_shown(key)}: {_KEY_MESSAGE}", field)
        if len(value) > 63:
            message = f"Invalid value: {_shown(value)}: must be no more than 63 characters"
            yield Cause("FieldValueInvalid", message, field)
        elif not re.fullmatch(_LABEL_VALUE, value):
            yield Cause("FieldValueInvalid", f"Invalid value: {_shown(value)}: {_LABEL_MESSAGE}", field)


def _good_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    good_prefix = not slash or (len(prefix) <= 253 and re.fullmatch(_SUBDOMAIN, prefix))
    return bool(good_prefix and len(name) <= 63 and re.fullmatch(_LABEL_KEY, name))


def _job_causes(spec: Object) -> Iterator[Cause]:
    yield from _numbers(spec, _JOB_NUMBERS, "spec")
    template = spec["template"]
    yield from label_causes((template.get("metadata") or {}).get("labels") or {}, "spec.template.labels")
    pod = template.get("spec") or {}
    yield from pod_causes(pod, "spec.template.spec")
    restart, field = pod.get("restartPolicy"), "spec.template.spec.restartPolicy"
    if restart == "Always" or restart is None:
        yield Cause("FieldValueRequired", 'Required value: valid values: "OnFailure", "Never"', field)
    elif restart not in ("OnFailure", "Never"):
        message = f'Unsupported value: {_shown(restart)}: supported values: "OnFailure", "Never"'
        yield Cause("FieldValueNotSupported", message, field)
    elif restart != "Never" and spec.get("podFailurePolicy") is not None:
        message = f'Invalid value: {_shown(restart)}: only "Never" is supported when podFailurePolicy is specified'
        yield Cause("FieldValueInvalid", message, field)
    yield from _failure_policy_causes(spec.get("podFailurePolicy") or {}, spec)
    if spec.get("completionMode") == "Indexed":
        message = 'Unsupported value: "Indexed": supported values: "NonIndexed"'
        yield Cause("FieldValueNotSupported", message, "spec.completionMode")


def _failure_policy_causes(policy: Object, spec: Object) -> Iterator[Cause]:
    names = {one.get("name") for one in (spec["template"].get("spec") or {}).get("containers", ())}
    for index, rule in enumerate(policy.get("rules") or ()):
        field = f"spec.podFailurePolicy.rules[{index}]"
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
        if rule.get("action") not in ("FailJob", "Ignore", "Count"):
            message = f'Unsupported value: {_shown(rule.get("action"))}: supported values: "Count", "FailJob", "Ignore"'
            yield Cause("FieldValueNotSupported", message, f"{field}.action")
        if (codes is None) == (not conditions):
            message = "Invalid value: specifying one of OnExitCodes and OnPodConditions is required"
            yield Cause("FieldValueInvalid", message, field)
        if codes is not None:
            values = codes.get("values") or []
            if not values:
                message = "Invalid value: []: at least one value is required"
                yield Cause("FieldValueInvalid", message, f"{field}.onExitCodes.values")
            elif values != sorted(set(values)):
                message = f"Invalid value: {values}: must be ordered"
                yield Cause("FieldValueInvalid", message, f"{field}.onExitCodes.values")
            if codes.get("operator") not in ("In", "NotIn"):
                message = f'Unsupported value: {_shown(codes.get("operator"))}: supported values: "In", "NotIn"'
                yield Cause("FieldValueNotSupported", message, f"{field}.onExitCodes.operator")
            if codes.get("containerName") is not None and codes["containerName"] not in names:
                why = "must be one of the container or initContainer names"
                message = f"Invalid value: {_shown(codes['containerName'])}: {why}"
                yield Cause("FieldValueInvalid", message, f"{field}.onExitCodes.containerName")


def _numbers(spec: Object, names: tuple[str, ...], field: str) -> Iterator[Cause]:
    for name in names:
        value = spec.get(name)
        if value is not None and value < 0:
            message = f"Invalid value: {value}: must be greater than or equal to 0"
            yield Cause("FieldValueInvalid", message, f"{field}.{name}")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
