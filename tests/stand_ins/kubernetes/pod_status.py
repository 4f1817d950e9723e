"""The status of a pod, as kubelet and scheduler write it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.models import Object

_ORDER = ("DisruptionTarget", "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def condition(status: Object, kind: str, value: str, reason: str | None = None, message: str | None = None) -> Object:
    """The status with one condition set; its time changes only when its value does."""
    before = {one["type"]: one for one in status.get("conditions", ())}
    old = before.get(kind)
    new: Object = {"type": kind, "status": value, "lastProbeTime": None}
    same = old is not None and old["status"] == value
    new["lastTransitionTime"] = old["lastTransitionTime"] if same and old is not None else stamp()
    new |= {"reason": reason} if reason else {}
    new |= {"message": message} if message else {}
    before[kind] = new
    return {**status, "conditions": sorted(before.values(), key=lambda one: _ORDER.index(one["type"]))}


def with_containers(
    status: Object, containers: Sequence[Object], inits: Sequence[Object], phase: str, *, initialized: bool = True
) -> Object:
    """The status after a look at the containers."""
    status = {**status, "phase": phase, "containerStatuses": list(containers)}
    if inits:
        status["initContainerStatuses"] = list(inits)
    if phase == "Succeeded":
        for kind, value in (("Initialized", "True"), ("Ready", "False"), ("ContainersReady", "False")):
            status = condition(status, kind, value, "PodCompleted")
        return status
    unready = [one["name"] for one in containers if not one["ready"]]
    if initialized:
        status = condition(status, "Initialized", "True")
    else:
        waiting = " ".join(one["name"] for one in inits if not one["ready"])
        message = f"containers with incomplete status: [{waiting}]"
        status = condition(status, "Initialized", "False", "ContainersNotInitialized", message)
    for kind in ("Ready", "ContainersReady"):
        if unready:
            message = f"containers with unready status: [{' '.join(unready)}]"
            status = condition(status, kind, "False", "ContainersNotReady", message)
        else:
            status = condition(status, kind, "True")
    return status


def container_status(
    name: str, image: str, state: Object, *, last: Object | None = None, restarts: int = 0, ran: str | None = None
) -> Object:
    """One container. `ran`: the id of the container that it has or had."""
    running = "running" in state
    status: Object = {
        "name": name,
        "state": state,
        "lastState": last or {},
        "ready": running,
        "restartCount": restarts,
        "image": image,
        "imageID": f"docker.io/{image}" if ran else "",
        "started": running,
    }
    if ran:
        status["containerID"] = ran
    return status


def terminated(code: int, reason: str, started: float, ended: float, ran: str, message: str | None = None) -> Object:
    state: Object = {
        "exitCode": code,
        "reason": reason,
        "startedAt": stamp(started),
        "finishedAt": stamp(ended),
        "containerID": ran,
    }
    if message:
        state["message"] = message
    return {"terminated": state}


def waiting(reason: str, message: str | None = None) -> Object:
    return {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}


def is_over(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """What a job controller counts as active."""
    return not is_over(pod) and "deletionTimestamp" not in pod["metadata"]
