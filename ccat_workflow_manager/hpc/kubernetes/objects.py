"""Jobs, pods and metrics: the parts that this backend looks at, parsed from the JSON of the API server. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.base import ResourceUsage
from ccat_workflow_manager.hpc.kubernetes.manifest import CONTAINER, JOB_LABEL, NAME_ANNOTATION
from ccat_workflow_manager.hpc.kubernetes.site import LABEL
from ccat_workflow_manager.json_values import storable

_LONGEST_TEXT = 4096
"""The most that Kubernetes itself takes for the message of a container."""
_JOB_LABELS = (JOB_LABEL, "batch.kubernetes.io/job-name", "job-name")
_ID = re.compile(rf"({LABEL.pattern})/({LABEL.pattern})")
_LONGEST_ID = 200


class JobKey(NamedTuple):
    """The parts of a job id: the namespace and the name of the Job."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def of(cls, job_id: str) -> JobKey | None:
        """The parts of this id; None if it is none of this backend."""
        match = _ID.fullmatch(job_id) if len(job_id) < _LONGEST_ID else None
        return cls(match[1], match[3]) if match else None


@dataclass(frozen=True, slots=True)
class Condition:
    """The reason of a condition of an object, or of a container that waits."""

    reason: str = ""
    message: str = ""
    since: datetime | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}".rstrip(": ")


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A Job."""

    name: str
    uid: str = ""
    job_name: str = ""
    """The name that `submit` was given."""
    created: datetime | None = None
    deleting: datetime | None = None
    suspended: bool = False
    shows_disruptions: bool = True
    """Its pods get the condition DisruptionTarget before Kubernetes itself deletes them (from 1.26 on)."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """The conditions that are true, by type."""

    @property
    def group(self) -> str:
        return self.name

    @property
    def failed(self) -> Condition | None:
        return self.conditions.get("Failed")

    @property
    def over(self) -> bool:
        return "Complete" in self.conditions or self.failed is not None


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of the container of a pod."""

    exit_code: int
    reason: str = ""
    message: str = ""
    started: datetime | None = None
    finished: datetime | None = None


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod."""

    name: str
    group: str
    """The name of its Job."""
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    node: str = ""
    created: datetime | None = None
    deleting: datetime | None = None
    """For a pod that is being deleted: when it is killed."""
    grace_seconds: float = 0
    scheduled: datetime | None = None
    unschedulable: str = ""
    waiting: Condition | None = None
    running: datetime | None = None
    """Since when its container runs."""
    ended: Ended | None = None
    disrupted: Condition | None = None
    silent: bool = False
    """The control plane has marked it as not ready, because its node does not answer."""

    @property
    def over(self) -> bool:
        """Whether its container has ended. Some kubelets set the phase before they stop the container."""
        return self.phase in ("Succeeded", "Failed") and self.running is None

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}".rstrip(": ")


def read_job(data: Mapping[str, Any]) -> SeenJob:
    """Raises BackendConfused."""
    try:
        metadata, spec, status = data["metadata"], data.get("spec") or {}, data.get("status") or {}
        return SeenJob(
            name=_text(metadata["name"]),
            uid=_text(metadata.get("uid")),
            job_name=_text((metadata.get("annotations") or {}).get(NAME_ANNOTATION)),
            created=_time(metadata.get("creationTimestamp")),
            deleting=_time(metadata.get("deletionTimestamp")),
            suspended=spec.get("suspend") is True,
            shows_disruptions="podFailurePolicy" in spec,
            conditions=_conditions(status, "True"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _confused("a Job", error) from error


def read_pod(data: Mapping[str, Any]) -> SeenPod:
    """Raises BackendConfused."""
    try:
        metadata, status = data["metadata"], data.get("status") or {}
        labels, spec = metadata.get("labels") or {}, data.get("spec") or {}
        conditions, missing = _conditions(status, "True"), _conditions(status, "False")
        state = _container_state(status)
        waiting, running, terminated = (state.get(key) for key in ("waiting", "running", "terminated"))
        return SeenPod(
            name=_text(metadata["name"]),
            group=next((_text(labels[key]) for key in _JOB_LABELS if labels.get(key)), ""),
            phase=_text(status.get("phase")) or "Pending",
            reason=_text(status.get("reason")),
            message=_text(status.get("message")),
            node=_text(spec.get("nodeName")),
            created=_time(metadata.get("creationTimestamp")),
            deleting=_time(metadata.get("deletionTimestamp")),
            grace_seconds=float(spec.get("terminationGracePeriodSeconds") or 0),
            scheduled=conditions["PodScheduled"].since if "PodScheduled" in conditions else None,
            unschedulable=str(missing.get("PodScheduled", "")),
            waiting=Condition(_text(waiting.get("reason")), _text(waiting.get("message"))) if waiting else None,
            running=_time(running.get("startedAt")) if running is not None else None,
            ended=_ended(terminated) if terminated is not None else None,
            disrupted=conditions.get("DisruptionTarget"),
            # A kubelet gives a reason.
            silent=running is not None and "Ready" in missing and not missing["Ready"].reason,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _confused("a Pod", error) from error


def _conditions(status: Mapping[str, Any], value: str) -> dict[str, Condition]:
    return {
        _text(each["type"]): Condition(
            _text(each.get("reason")), _text(each.get("message")), _time(each.get("lastTransitionTime"))
        )
        for each in status.get("conditions") or ()
        if each.get("status") == value
    }


def _container_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(
        (each.get("state") or {} for each in status.get("containerStatuses") or () if each.get("name") == CONTAINER), {}
    )


def _ended(data: Mapping[str, Any]) -> Ended:
    return Ended(
        int(data["exitCode"]),
        _text(data.get("reason")),
        _text(data.get("message")).strip(),
        _time(data.get("startedAt")),
        _time(data.get("finishedAt")),
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    # The message of a container is what its program wrote into /dev/termination-log.
    return str(storable(value[:_LONGEST_TEXT]))


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if value else None


def usage_of(data: Mapping[str, Any]) -> ResourceUsage | None:
    """The usage of the step's container. A metrics server has the rate of CPU time, not its sum."""
    from kubernetes.utils import parse_quantity

    try:
        for each in data["containers"]:
            if each["name"] == CONTAINER:
                return ResourceUsage(memory_gb=float(parse_quantity(each["usage"]["memory"])) / GIB)
    except (KeyError, TypeError, ValueError) as error:
        raise _confused("the metrics of a pod", error) from error
    return None


def _confused(what: str, error: Exception) -> BackendConfused:
    return BackendConfused(f"{what} cannot be read: {error!r}", backend="kubernetes")
