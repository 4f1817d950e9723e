"""Tables, as `kubectl get` asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from tests.stand_ins.kubernetes.answers import EVENTS, JOBS, PODS, Resource
from tests.stand_ins.kubernetes.models import Object

_COLUMNS: dict[str, tuple[str, ...]] = {
    JOBS.plural: ("Name", "Status", "Completions", "Duration", "Age"),
    PODS.plural: ("Name", "Ready", "Status", "Restarts", "Age"),
    EVENTS.plural: ("Last Seen", "Type", "Reason", "Object", "Message"),
}
_PLAIN = ("Name", "Status", "Age")


def table(resource: Resource, items: list[Object], metadata: Object) -> Object:
    """`metadata` is that of the list."""
    columns = _COLUMNS.get(resource.plural, _PLAIN)
    cells = _CELLS.get(resource.plural, _plain)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": name,
                "type": "string",
                "format": "name" if name == "Name" else "",
                "description": name,
                "priority": 0,
            }
            for name in columns
        ],
        "rows": [{"cells": cells(item), "object": _partial(item)} for item in items],
    }


def _partial(item: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}


def _job(job: Object) -> list[str]:
    status, spec = job["status"], job["spec"]
    conditions = {one["type"] for one in status.get("conditions", ()) if one["status"] == "True"}
    word = next((one for one in ("Complete", "Failed") if one in conditions), "Running")
    if word == "Running" and "deletionTimestamp" in job["metadata"]:
        word = "Terminating"
    done = f"{status.get('succeeded', 0)}/{spec.get('completions', spec['parallelism'])}"
    duration = ""
    if start := status.get("startTime"):
        duration = _span(_seconds(status.get("completionTime")) - _seconds(start))
    return [job["metadata"]["name"], word, done, duration, _age(job)]


def _pod(pod: Object) -> list[str]:
    status = pod["status"]
    containers = status.get("containerStatuses", ())
    word = status.get("reason") or status["phase"]
    for one in containers:
        state = one["state"]
        word = (state.get("waiting") or state.get("terminated") or {}).get("reason") or word
    if "deletionTimestamp" in pod["metadata"]:
        word = "Terminating"
    ready = f"{sum(bool(one['ready']) for one in containers)}/{len(pod['spec']['containers'])}"
    restarts = str(sum(int(one["restartCount"]) for one in containers))
    return [pod["metadata"]["name"], ready, word, restarts, _age(pod)]


def _event(event: Object) -> list[str]:
    about = event["involvedObject"]
    last = event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
    name = f"{about['kind'].lower()}/{about['name']}"
    return [_span(time.time() - _seconds(last)), event["type"], event["reason"], name, event["message"]]


def _plain(item: Object) -> list[str]:
    return [item["metadata"]["name"], "Active" if item["kind"] == "Namespace" else "Ready", _age(item)]


_CELLS: dict[str, Callable[[Object], list[str]]] = {JOBS.plural: _job, PODS.plural: _pod, EVENTS.plural: _event}


def _age(item: Object) -> str:
    return _span(time.time() - _seconds(item["metadata"]["creationTimestamp"]))


def _seconds(text: str | None) -> float:
    return time.time() if text is None else datetime.fromisoformat(text).timestamp()


def _span(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole}s" if whole < 120 else f"{whole // 60}m{whole % 60}s"
