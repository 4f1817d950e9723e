"""What the API server does to an object that was created or changed, once it fits the schema: checks and defaults."""

from __future__ import annotations

import copy
import json
import random
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from tests.stand_ins.kubernetes import errors
from tests.stand_ins.kubernetes.clockwork import stamp
from tests.stand_ins.kubernetes.errors import Cause
from tests.stand_ins.kubernetes.objects import JOBS, Object, quantity

TRACKING = "batch.kubernetes.io/job-tracking"
"""The finalizer that keeps a pod until its Job has counted it."""

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_random = random.Random()
"""Seeded by the system once: to ask it for every name takes longer than all the rest on a busy machine."""

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_NAME_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_FROM_ZERO = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")
_IMMUTABLE = ("completions", "selector", "template", "completionMode", "podFailurePolicy")


# --- checks ----------------------------------------------------------------------------------------------------------


def check_new(job: Object) -> None:
    """Raises Invalid with everything that is wrong."""
    spec = job["spec"]
    template = spec["template"]
    causes = [
        *_name_causes(job["metadata"]),
        *_label_causes(job["metadata"].get("labels") or {}, "metadata.labels"),
        *_number_causes(spec),
        *_policy_causes(spec.get("podFailurePolicy") or {}),
        *_label_causes(template["metadata"].get("labels") or {}, "spec.template.labels"),
        *_pod_causes(template["spec"], "spec.template.spec"),
    ]
    if causes:
        raise errors.invalid(JOBS, job["metadata"].get("name", ""), causes)


def check_change(before: Object, after: Object) -> None:
    """Raises Invalid for a change of what is fixed."""
    old, new = before["spec"], after["spec"]
    causes = [
        Cause("FieldValueInvalid", f"Invalid value: {_shown(new.get(name))}: field is immutable", f"spec.{name}")
        for name in _IMMUTABLE
        if old.get(name) != new.get(name)
    ]
    causes += [*_label_causes(after["metadata"].get("labels") or {}, "metadata.labels"), *_number_causes(new)]
    if causes:
        raise errors.invalid(JOBS, after["metadata"]["name"], causes)


def _name_causes(metadata: Object) -> Iterator[Cause]:
    name = metadata.get("name")
    if not name:
        yield Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
    elif not re.fullmatch(_SUBDOMAIN, name):
        yield Cause("FieldValueInvalid", f"Invalid value: {_shown(name)}: {_NAME_MESSAGE}", "metadata.name")


def _label_causes(labels: Mapping[str, str], field: str) -> Iterator[Cause]:
    for value in labels.values():
        if len(value) > 63:
            message = f"Invalid value: {_shown(value)}: must be no more than 63 characters"
            yield Cause("FieldValueInvalid", message, field)
        elif not re.fullmatch(_LABEL_VALUE, value):
            message = f"Invalid value: {_shown(value)}: regex used for validation is '{_LABEL_VALUE}'"
            yield Cause("FieldValueInvalid", message, field)


def _number_causes(spec: Object) -> Iterator[Cause]:
    for name in _FROM_ZERO:
        value = spec.get(name)
        if value is not None and value < 0:
            message = f"Invalid value: {value}: must be greater than or equal to 0"
            yield Cause("FieldValueInvalid", message, f"spec.{name}")


def _policy_causes(policy: Object) -> Iterator[Cause]:
    for index, rule in enumerate(policy.get("rules") or ()):
        if rule["action"] != "FailJob":
            field = f"spec.podFailurePolicy.rules[{index}].action"
            yield Cause("FieldValueNotSupported", "the stand-in knows only FailJob", field)


def _pod_causes(spec: Object, field: str) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield Cause("FieldValueRequired", "Required value", f"{field}.containers")
    if spec["restartPolicy"] == "Always":
        message = 'Required value: valid values: "OnFailure", "Never"'
        yield Cause("FieldValueRequired", message, f"{field}.restartPolicy")
    elif spec["restartPolicy"] != "Never":
        yield Cause("FieldValueNotSupported", "the stand-in runs only pods with Never", f"{field}.restartPolicy")
    volumes = {volume["name"] for volume in spec.get("volumes") or ()}
    for index, container in enumerate(spec.get("containers") or ()):
        yield from _container_causes(container, f"{field}.containers[{index}]", volumes)


def _container_causes(container: Object, field: str, volumes: set[str]) -> Iterator[Cause]:
    """What would otherwise break the scheduler or the kubelet of the stand-in."""
    targets: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount["name"] not in volumes:
            yield Cause("FieldValueNotFound", f'Not found: "{mount["name"]}"', f"{field}.volumeMounts[{index}].name")
        if mount["mountPath"] in targets:
            message = f'Invalid value: "{mount["mountPath"]}": must be unique'
            yield Cause("FieldValueInvalid", message, f"{field}.volumeMounts[{index}].mountPath")
        targets.add(mount["mountPath"])
    for kind, amounts in container["resources"].items():
        for name, amount in amounts.items():
            try:
                quantity(amount)
            except ValueError as error:
                yield Cause("FieldValueInvalid", f'Invalid value: "{amount}": {error}', f"{field}.{kind}[{name}]")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


# --- defaults --------------------------------------------------------------------------------------------------------


def random_name(prefix: str) -> str:
    return prefix + "".join(_random.choices(_SUFFIX_LETTERS, k=5))


def new_metadata(item: Object, namespace: str) -> Object:
    """The object with the metadata that every new object gets."""
    metadata = {key: value for key, value in item.get("metadata", {}).items() if value is not None}
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = random_name(metadata["generateName"])
    metadata["namespace"] = namespace
    metadata["uid"] = str(uuid.UUID(int=_random.getrandbits(128), version=4))
    metadata["creationTimestamp"] = stamp()
    return {**item, "metadata": metadata}


def new_job(item: Object, *, old: bool) -> Object:
    """A Job as it is stored. `old`: as by a 1.20."""
    job = copy.deepcopy({**item, "status": {}})
    spec, uid, name = job["spec"], job["metadata"]["uid"], job["metadata"].get("name", "")
    template = spec["template"]
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not job["metadata"].get("labels") and labels:
        job["metadata"]["labels"] = dict(labels)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 6)
    own = {"controller-uid": uid, "job-name": name}
    if not old:
        own = {f"batch.kubernetes.io/{key}": value for key, value in own.items()} | own
        job["metadata"].setdefault("generation", 1)
        spec.setdefault("completionMode", "NonIndexed")
        spec.setdefault("suspend", False)
        spec.setdefault("podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")
        spec.setdefault("manualSelector", False)
    key = "controller-uid" if old else "batch.kubernetes.io/controller-uid"
    spec["selector"] = {"matchLabels": {key: uid}}
    template["metadata"] = {**(template.get("metadata") or {}), "labels": {**labels, **own}}
    if old:
        template["metadata"]["creationTimestamp"] = None
    template["spec"] = _pod_spec(template.get("spec") or {})
    return job


def new_pod(job: Object, *, old: bool) -> Object:
    """A pod for a Job, as it is stored."""
    template, metadata = job["spec"]["template"], job["metadata"]
    prefix = f"{metadata['name']}-"
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"],
             "controller": True, "blockOwnerDeletion": True}  # fmt: skip
    own: Object = {
        "name": random_name(prefix),
        "generateName": prefix,
        "labels": template["metadata"]["labels"],
        "ownerReferences": [owner],
        "annotations": template["metadata"].get("annotations"),
        "finalizers": None if old else [TRACKING],
    }
    spec = copy.deepcopy(template["spec"])
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = list(spec.get("tolerations") or ())
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(one.get("key") in (key, None) and one.get("effect") in ("NoExecute", None) for one in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    spec["tolerations"] = tolerations
    for container in spec["containers"]:
        resources = container["resources"]
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": own, "spec": spec}
    return new_metadata(pod, metadata["namespace"]) | {"status": {"phase": "Pending", "qosClass": _quality(spec)}}


def _pod_spec(spec: Object) -> Object:
    spec = {key: value for key, value in spec.items() if value is not None}
    spec["containers"] = [_container(container) for container in spec.get("containers", ())]
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    for volume in spec.get("volumes") or ():
        if volume.get("hostPath") is not None:
            volume["hostPath"].setdefault("type", "")
    return spec


def _container(container: Object) -> Object:
    container = {key: value for key, value in container.items() if value is not None}
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    latest = "@" not in image and tag in ("", "latest")
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.get("resources") or {}
    container["resources"] = {
        kind: {name: str(amount) for name, amount in resources[kind].items()}
        for kind in ("limits", "requests")
        if resources.get(kind) is not None
    }
    return container


def _quality(spec: Object) -> str:
    """The quality of service class of a pod, whose requests are filled in."""
    resources = [container["resources"] for container in spec["containers"]]
    if not any(one.get("limits") or one.get("requests") for one in resources):
        return "BestEffort"
    guaranteed = all(
        name in one.get("limits", {}) and quantity(one["requests"][name]) == quantity(one["limits"][name])
        for one in resources
        for name in ("cpu", "memory")
    )
    return "Guaranteed" if guaranteed else "Burstable"
