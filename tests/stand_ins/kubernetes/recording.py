"""Event objects: what the parts of the cluster report about an object."""

from __future__ import annotations

import time

from tests.stand_ins.kubernetes.answers import EVENTS
from tests.stand_ins.kubernetes.clock import fine_stamp, stamp
from tests.stand_ins.kubernetes.defaults import new_metadata
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.store import Key, Store


class Recorder:
    """Writes events; one that repeats itself is counted up."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._seen: dict[tuple[str, ...], Key] = {}

    def tell(
        self,
        about: Object,
        kind: str,
        reason: str,
        message: str,
        *,
        component: str,
        host: str | None = None,
        container: str | None = None,
    ) -> None:
        """`kind` is Normal or Warning."""
        uid = about["metadata"]["uid"]
        same = (uid, kind, reason, message, component, container or "")
        if (key := self._seen.get(same)) and self.store.change(EVENTS, key, _again) is not None:
            return
        metadata = about["metadata"]
        involved: Object = {
            "kind": about["kind"],
            "namespace": metadata.get("namespace", ""),
            "name": metadata["name"],
            "uid": uid,
            "apiVersion": about["apiVersion"],
            "resourceVersion": metadata["resourceVersion"],
        }
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        namespace = metadata.get("namespace", "default")
        name = f"{metadata['name']}.{time.time_ns():x}"
        event: Object = {"kind": "Event", "apiVersion": "v1", "metadata": {"name": name}}
        event = new_metadata(event, namespace) | {
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": kind,
        }
        event |= _scheduled(kind) if component == "default-scheduler" else _reported(component, host)
        self._seen[same] = (namespace, name)
        self.store.create(EVENTS, event)


def _scheduled(kind: str) -> Object:
    """How the scheduler tells it, in the newer way."""
    return {
        "source": {},
        "firstTimestamp": None,
        "lastTimestamp": None,
        "eventTime": fine_stamp(),
        "action": "Binding" if kind == "Normal" else "Scheduling",
        "reportingComponent": "default-scheduler",
        "reportingInstance": "default-scheduler-stand-in",
    }


def _reported(component: str, host: str | None) -> Object:
    """How all others tell it."""
    now = stamp()
    return {
        "source": {"component": component} | ({"host": host} if host else {}),
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "eventTime": None,
        "reportingComponent": component,
        "reportingInstance": host or "",
    }


def _again(event: Object) -> Object:
    if event.get("count") is None:
        return {**event, "series": {"count": 2, "lastObservedTime": fine_stamp()}}
    return {**event, "count": event["count"] + 1, "lastTimestamp": stamp()}
