"""From the JSON of the API server to what we look at of Jobs and pods. Raises ValueError for what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ccat_workflow_manager.hpc.kubernetes.manifest import ATTEMPT_ANNOTATION, CONTAINER, JOB_LABEL, NAME_ANNOTATION

_OLD_JOB_LABELS = ("batch.kubernetes.io/job-name", "job-name")


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is said of an object: since when, why, in which words."""

    reason: str = ""
    message: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A Job."""

    name: str
    uid: str = ""
    job_name: str = ""
    """The name as `submit` was given it."""
    attempt: str = ""
    """Where the files of the attempt begin."""
    created: datetime | None = None
    deleting: datetime | None = None
    suspended: bool = False
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """Those that are true, by type."""

    @property
    def group(self) -> str:
        return self.name

    @property
    def complete(self) -> bool:
        return "Complete" in self.conditions

    @property
    def failed(self) -> Condition | None:
        return self.conditions.get("Failed")

    @property
    def over(self) -> bool:
        return self.complete or self.failed is not None


@dataclass(frozen=True, slots=True)
class Ended:
    """How the container of a pod ended."""

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
    """When its time to end is over, if it is to end."""
    scheduled: datetime | None = None
    unschedulable: str = ""
    waiting: Condition | None = None
    running: datetime | None = None
    """Since when its container runs."""
    ended: Ended | None = None
    disrupted: Condition | None = None

    @property
    def over(self) -> bool:
        """None of its processes is left."""
        return self.phase in ("Succeeded", "Failed")


def read_job(data: Mapping[str, Any]) -> SeenJob:
    try:
        metadata, status = data["metadata"], data.get("status") or {}
        notes = metadata.get("annotations") or {}
        return SeenJob(
            name=_text(metadata["name"]),
            uid=_text(metadata.get("uid")),
            job_name=_text(notes.get(NAME_ANNOTATION)),
            attempt=_text(notes.get(ATTEMPT_ANNOTATION)),
            created=_time(metadata.get("creationTimestamp")),
            deleting=_time(metadata.get("deletionTimestamp")),
            suspended=(data.get("spec") or {}).get("suspend") is True,
            conditions=_conditions(status),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a Job: {error!r}") from error


def read_pod(data: Mapping[str, Any]) -> SeenPod:
    try:
        metadata, status = data["metadata"], data.get("status") or {}
        labels = metadata.get("labels") or {}
        conditions = _conditions(status)
        scheduled = conditions.get("PodScheduled")
        state = _container_state(status)
        waiting = state.get("waiting")
        return SeenPod(
            name=_text(metadata["name"]),
            group=next((_text(labels[key]) for key in (JOB_LABEL, *_OLD_JOB_LABELS) if labels.get(key)), ""),
            phase=_text(status.get("phase")) or "Pending",
            reason=_text(status.get("reason")),
            message=_text(status.get("message")),
            node=_text((data.get("spec") or {}).get("nodeName")),
            created=_time(metadata.get("creationTimestamp")),
            deleting=_time(metadata.get("deletionTimestamp")),
            scheduled=scheduled.since if scheduled is not None else None,
            unschedulable=_unschedulable(status),
            waiting=Condition(_text(waiting.get("reason")), _text(waiting.get("message"))) if waiting else None,
            running=_time(state["running"].get("startedAt")) if state.get("running") is not None else None,
            ended=_ended(state["terminated"]) if state.get("terminated") is not None else None,
            disrupted=conditions.get("DisruptionTarget"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a Pod: {error!r}") from error


def _conditions(status: Mapping[str, Any]) -> dict[str, Condition]:
    return {
        _text(each["type"]): Condition(
            _text(each.get("reason")), _text(each.get("message")), _time(each.get("lastTransitionTime"))
        )
        for each in status.get("conditions") or ()
        if each.get("status") == "True"
    }


def _unschedulable(status: Mapping[str, Any]) -> str:
    for each in status.get("conditions") or ():
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            return f"{_text(each.get('reason')) or 'Unschedulable'}: {_text(each.get('message'))}".rstrip(": ")
    return ""


def _container_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for each in status.get("containerStatuses") or ():
        if each.get("name") == CONTAINER:
            return each.get("state") or {}
    return {}


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
    return value


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
