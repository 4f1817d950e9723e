"""Event objects: what the parts of the cluster report about an object."""

from __future__ import annotations

import time

from tests.stand_ins.kubernetes.admission import new_metadata
from tests.stand_ins.kubernetes.clockwork import fine_stamp, stamp
from tests.stand_ins.kubernetes.objects import EVENTS, Key, Object
from tests.stand_ins.kubernetes.store import Store


class Recorder:
    """Writes events. One that repeats itself is counted up."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._written: dict[tuple[str, ...], Key] = {}

    def record(
        self,
        about: Object,
        kind: str,
        reason: str,
        message: str,
        *,
        component: str,
        host: str = "",
        container: str | None = None,
    ) -> None:
        """`kind` is Normal or Warning."""
        metadata = about["metadata"]
        same = (metadata["uid"], kind, reason, message, component, container or "")
        if (key := self._written.get(same)) and self.store.change(EVENTS, key, _again) is not None:
            return
        involved: Object = {
            "kind": about["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "apiVersion": about["apiVersion"],
            "resourceVersion": metadata["resourceVersion"],
        }
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        key = (metadata["namespace"], f"{metadata['name']}.{time.time_ns():x}")
        event: Object = {"kind": "Event", "apiVersion": "v1", "metadata": {"name": key[1]}}
        event = new_metadata(event, key[0]) | {"involvedObject": involved, "reason": reason, "message": message}
        event |= {"type": kind} | (_of_scheduler(kind) if component == "default-scheduler" else _of(component, host))
        self._written[same] = key
        self.store.create(EVENTS, event)


def _of_scheduler(kind: str) -> Object:
    """Times and source in the newer form, which only the scheduler uses."""
    return {
        "source": {},
        "firstTimestamp": None,
        "lastTimestamp": None,
        "eventTime": fine_stamp(),
        "action": "Binding" if kind == "Normal" else "Scheduling",
        "reportingComponent": "default-scheduler",
        "reportingInstance": "default-scheduler-stand-in",
    }


def _of(component: str, host: str) -> Object:
    now = stamp()
    return {
        "source": {"component": component} | ({"host": host} if host else {}),
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "eventTime": None,
        "reportingComponent": component,
        "reportingInstance": host,
    }


def _again(event: Object) -> Object:
    if event.get("count") is None:
        return {**event, "series": {"count": 2, "lastObservedTime": fine_stamp()}}
    return {**event, "count": event["count"] + 1, "lastTimestamp": stamp()}
