"""What is below a pod: its log, its eviction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from tests.stand_ins.kubernetes import answers, logs
from tests.stand_ins.kubernetes.answers import PODS, bad_request
from tests.stand_ins.kubernetes.container_run import home_of
from tests.stand_ins.kubernetes.deletion import Deletion
from tests.stand_ins.kubernetes.exchange import Answer, Request
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.store import Key, Store, key_of

_FOLLOW_SECONDS = 0.05


class PodParts:
    """Used by the threads of all requests at once."""

    def __init__(self, store: Store, deletion: Deletion, directory: Path, lost: set[str], *, old: bool) -> None:
        self.store = store
        self.deletion = deletion
        self.directory = directory
        self.lost = lost
        self.old = old
        self.stopping = Event()

    def evict(self, key: Key) -> Answer:
        """As `kubectl drain` asks for it."""
        self.store.get(PODS, key)
        reason = ("EvictionByEvictionAPI", "Eviction API: evicting")
        self.deletion.delete_pod(key, disruption=None if self.old else reason)
        return Answer(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})

    def log(self, key: Key, request: Request) -> Answer:
        pod = self.store.get(PODS, key)
        name = self._container(pod, request.query.get("container", ""))
        node = pod["spec"].get("nodeName")
        if not node:
            return Answer(200, b"", "text/plain")
        if node in self.lost:
            message = (
                f'Get "https://{node}:10250/containerLogs/{key[0]}/{key[1]}/{name}": dial tcp {node}:10250: i/o timeout'
            )
            raise answers.ApiError(500, "InternalError", message, {})
        path = self._path(pod, name, previous=request.flag("previous"))
        tail, timestamps = request.number("tailLines"), request.flag("timestamps")
        lines = logs.read(path, tail=tail, since=_since(request))
        text = b"".join(logs.shown(lines, timestamps=timestamps))
        if (limit := request.number("limitBytes")) is not None:
            text = text[:limit]
        if request.flag("follow"):
            return Answer(200, content_type="text/plain", stream=self._follow(pod, name, path, text, timestamps))
        return Answer(200, text, "text/plain")

    @staticmethod
    def _container(pod: Object, asked: str) -> str:
        names = [one["name"] for one in pod["spec"]["containers"]]
        inits = [one["name"] for one in pod["spec"].get("initContainers") or ()]
        pod_name = pod["metadata"]["name"]
        if asked and asked not in (*names, *inits):
            raise bad_request(f"container {asked} is not valid for pod {pod_name}")
        if not asked and len(names) + len(inits) > 1:
            message = f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(names)}]"
            raise bad_request(message + (f" or one of the init containers: [{' '.join(inits)}]" if inits else ""))
        return asked or str(names[0])

    def _path(self, pod: Object, name: str, *, previous: bool) -> Path:
        status = _status_of(pod, name)
        pod_name, restart = pod["metadata"]["name"], int(status.get("restartCount", 0))
        if previous:
            if restart == 0:
                raise bad_request(f'previous terminated container "{name}" in pod "{pod_name}" not found')
            restart -= 1
        waiting = status.get("state", {}).get("waiting")
        path = home_of(self.directory, pod["metadata"]["uid"], name, restart) / "log"
        if waiting and not path.exists():
            reason = waiting["reason"]
            why = (
                "trying and failing to pull image"
                if reason in ("ErrImagePull", "ImagePullBackOff")
                else f"waiting to start: {reason}"
            )
            raise bad_request(f'container "{name}" in pod "{pod_name}" is {why}')
        return path

    def _follow(self, pod: Object, name: str, path: Path, text: bytes, timestamps: bool) -> Iterator[bytes]:
        position = path.stat().st_size if path.exists() else 0
        if text:
            yield text
        while not self.stopping.is_set():
            present = self.store.find(PODS, key_of(pod))
            over = present is None or "terminated" in _status_of(present, name).get("state", {})
            if path.exists():
                with path.open("rb") as file:
                    file.seek(position)
                    lines = [line for line in file if line.endswith(b"\n")]
                position += sum(map(len, lines))
                if new := b"".join(logs.shown(lines, timestamps=timestamps)):
                    yield new
            if over:
                return
            self.stopping.wait(_FOLLOW_SECONDS)


def _status_of(pod: Object, name: str) -> Object:
    statuses = (*pod["status"].get("containerStatuses", ()), *pod["status"].get("initContainerStatuses", ()))
    found: Object = next((one for one in statuses if one["name"] == name), {})
    return found


def _since(request: Request) -> str | None:
    if seconds := request.number("sinceSeconds"):
        return datetime.fromtimestamp(time.time() - seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if text := request.query.get("sinceTime"):
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return None
