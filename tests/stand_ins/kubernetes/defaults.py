"""What the API server fills in."""

from __future__ import annotations

import copy
import random
import uuid
from typing import Any

from tests.stand_ins.kubernetes import quantities
from tests.stand_ins.kubernetes.answers import JOBS, Resource
from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.models import Object

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_random = random.Random()
"""Seeded by the system once: to ask it for every name takes longer than all the rest on a busy machine."""
TRACKING = "batch.kubernetes.io/job-tracking"
"""The finalizer that keeps a pod until its Job has counted it."""


def random_name(prefix: str) -> str:
    return prefix + "".join(_random.choices(_SUFFIX_LETTERS, k=5))


def new_metadata(item: Object, namespace: str) -> Object:
    """The object with what every object gets."""
    metadata = {key: value for key, value in item.get("metadata", {}).items() if value is not None}
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = random_name(metadata["generateName"])
    for read_only in (
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
    ):
        metadata.pop(read_only, None)
    if namespace:
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


def new_pod(item: Object) -> Object:
    """A Pod as it is stored, with what admission adds."""
    pod = copy.deepcopy(item)
    spec = _pod_spec(pod.get("spec") or {})
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
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        resources = container["resources"]
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
    pod["spec"] = spec
    pod["status"] = {"phase": "Pending", "qosClass": _quality(spec)}
    return pod


def completed(resource: Resource, item: Object) -> Object:
    """A changed object, with what the change has left out of the specs of pods."""
    if resource is not JOBS:
        return item
    template = item["spec"].get("template") or {}
    template = {**template, "spec": _pod_spec(copy.deepcopy(template.get("spec") or {}))}
    return {**item, "spec": {**item["spec"], "template": template}}


def _pod_spec(spec: Object) -> Object:
    spec = {key: value for key, value in spec.items() if value is not None}
    for kind in ("initContainers", "containers"):
        if kind in spec:
            spec[kind] = [_container(container) for container in spec[kind]]
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
    container["resources"] = {
        kind: {name: str(amount) for name, amount in amounts.items()} if isinstance(amounts, dict) else amounts
        for kind, amounts in (container.get("resources") or {}).items()
        if amounts is not None
    }
    return container


def _quality(spec: Object) -> str:
    """The quality of service class."""
    wanted: list[dict[str, Any]] = [one["resources"] for one in spec.get("containers", ())]
    if not any(one.get("limits") or one.get("requests") for one in wanted):
        return "BestEffort"
    for one in wanted:
        limits, requests = one.get("limits") or {}, one.get("requests") or {}
        for name in ("cpu", "memory"):
            if name not in limits or quantities.parse(requests.get(name, limits[name])) != quantities.parse(
                limits[name]
            ):
                return "Burstable"
    return "Guaranteed"
