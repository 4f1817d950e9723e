"""The status of a pod, as kubelet and scheduler write it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.stand_ins.kubernetes.clockwork import stamp
from tests.stand_ins.kubernetes.objects import Object, is_being_deleted

_ORDER = ("DisruptionTarget", "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def condition(status: Object, kind: str, value: str, reason: str | None = None, message: str | None = None) -> Object:
    """The status with one condition set. The time of a condition changes only when its value does."""
    conditions = {one["type"]: one for one in status.get("conditions", ())}
    before = conditions.get(kind)
    when = before["lastTransitionTime"] if before is not None and before["status"] == value else stamp()
    new: Object = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": when}
    new |= {"reason": reason} if reason else {}
    new |= {"message": message} if message else {}
    conditions[kind] = new
    return {**status, "conditions": sorted(conditions.values(), key=lambda one: _ORDER.index(one["type"]))}


def with_containers(status: Object, containers: Sequence[Object], phase: str) -> Object:
    """The status after a look at the containers."""
    status = {**status, "phase": phase, "containerStatuses": list(containers)}
    if phase == "Succeeded":
        for kind, value in (("Initialized", "True"), ("Ready", "False"), ("ContainersReady", "False")):
            status = condition(status, kind, value, "PodCompleted")
        return status
    status = condition(status, "Initialized", "True")
    unready = [one["name"] for one in containers if not one["ready"]]
    for kind in ("Ready", "ContainersReady"):
        if unready:
            message = f"containers with unready status: [{' '.join(unready)}]"
            status = condition(status, kind, "False", "ContainersNotReady", message)
        else:
            status = condition(status, kind, "True")
    return status


def container_status(name: str, image: str, state: Object, ran: str | None) -> Object:
    """One container. `ran`: the id that it got when it was created, if it was."""
    running = "running" in state
    status: Object = {
        "name": name,
        "state": state,
        "lastState": {},
        "ready": running,
        "restartCount": 0,
        "image": image,
        "imageID": f"docker.io/{image}" if ran else "",
        "started": running,
    }
    return status | ({"containerID": ran} if ran else {})


def terminated(code: int, reason: str, started: float, ended: float, ran: str, message: str | None = None) -> Object:
    state: Object = {
        "exitCode": code,
        "reason": reason,
        "startedAt": stamp(started),
        "finishedAt": stamp(ended),
        "containerID": ran,
    }
    return {"terminated": state | ({"message": message} if message else {})}


def waiting(reason: str, message: str | None = None) -> Object:
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def is_over(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Whether a job controller counts it as active."""
    return not is_over(pod) and not is_being_deleted(pod)


def is_ending(pod: Object) -> bool:
    return not is_over(pod) and is_being_deleted(pod)


def is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
