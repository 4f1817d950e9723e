"""The recording of a real 1.20.2, and how to compare the stand-in with it.

`traces/recorded-1.20.2.jsonl.gz` was recorded from a real 1.20.2 API server with its controllers, one node and docker;
only `managedFields` have been taken out, and the Go text of one message has been cut short. A line is either a request
with its answer or an event of a watch.
"""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

TRACES = Path(__file__).parent / "traces" / "recorded-1.20.2.jsonl.gz"

_TIMES = ("creationTimestamp", "deletionTimestamp", "lastTransitionTime", "lastProbeTime", "startTime",
          "completionTime", "startedAt", "finishedAt")  # fmt: skip
_ADDRESSES = ("hostIP", "podIP", "podIPs", "imageID", "containerID")
_LEFT_OUT = ("uid", "resourceVersion", *_ADDRESSES)
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_POD = re.compile(r"\b([a-z]+)-[bcdfghjklmnpqrstvwxz2456789]{5}\b")
_NETWORK = re.compile(r"rpc error: code = .*")


@cache
def lines() -> tuple[dict[str, Any], ...]:
    with gzip.open(TRACES, "rt", encoding="utf-8") as file:
        return tuple(json.loads(line) for line in file)


def namespace() -> str:
    return str(lines()[0]["object"]["metadata"]["namespace"])


def plain(value: Any, namespace: str) -> Any:
    """Without what differs from one run to the next: identities, times, versions, addresses, network errors."""
    if isinstance(value, dict):
        kept = {key: plain(part, namespace) for key, part in value.items() if key not in _LEFT_OUT}
        shown = {key: "then" for key in _TIMES if kept.get(key) is not None}
        return kept | shown | ({"continue": "a token"} if "continue" in kept else {})
    if isinstance(value, list):
        return [plain(part, namespace) for part in value]
    if isinstance(value, str):
        text = _UID.sub("UID", value.replace(namespace, "NAMESPACE"))
        return _POD.sub(r"\1-POD", _NETWORK.sub("rpc error", text))
    return value


def job_of(item: dict[str, Any]) -> str:
    """The Job that an object belongs to."""
    name = item["involvedObject"]["name"] if item["kind"] == "Event" else item["metadata"]["name"]
    return str(name).split("-", 1)[0]


def step(event: dict[str, Any], namespace: str) -> Any:
    """One event of a watch, as far as it can be compared."""
    item = event["object"]
    if item["kind"] == "Event":
        parts = {key: item.get(key) for key in ("type", "reason", "message", "source")}
        return plain({**parts, "kind": item["involvedObject"]["kind"]}, namespace)
    names = ("deletionTimestamp", "deletionGracePeriodSeconds", "finalizers", "ownerReferences", "labels")
    metadata = {key: item["metadata"].get(key) for key in names}
    status = {key: part for key, part in item["status"].items() if key != "startTime" or item["kind"] == "Job"}
    return plain({"type": event["type"], "metadata": metadata, "status": status}, namespace)
