"""Plain HTTP to the stand-in, for its own tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.stand_ins.kubernetes import ApiServer
from tests.support.waiting import PATIENCE, wait_for

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"

Item = dict[str, Any]


def job(name: str, command: str, *, pod: Item | None = None, container: Item | None = None, **spec: Any) -> Item:
    """A Job that runs a shell command."""
    main = {"name": "m", "image": "bb:1", "command": ["sh", "-c", command], **(container or {})}
    template = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [main], **(pod or {})}
    spec = {"backoffLimit": 0, "template": {"spec": template}, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


class Client:
    """Its requests, and waits for what they show."""

    def __init__(self, url: str, token: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)

    @classmethod
    def of(cls, server: ApiServer) -> Client:
        return cls(server.url, server.token_file.read_text())

    def create(self, name: str, command: str, **more: Any) -> None:
        answer = self.http.post(JOBS, json=job(name, command, **more))
        assert answer.status_code == 201, answer.text

    def job(self, name: str) -> Item:
        found: Item = self.http.get(f"{JOBS}/{name}").raise_for_status().json()
        return found

    def pods(self, name: str) -> list[Item]:
        """The pods of a Job."""
        items: list[Item] = self.http.get(PODS, params={"labelSelector": f"job-name={name}"}).json()["items"]
        return items

    def ended(self, name: str) -> str:
        """Why a Job has ended: the reason of its last condition. Waits for it."""

        def reason() -> str | None:
            ends = self.job(name)["status"].get("conditions", ())
            return next((str(one["reason"]) for one in ends if one["type"] in ("Complete", "Failed")), None)

        return wait_for(reason, 20, f"the end of {name}")

    def pod_where(self, name: str, true: Callable[[Item], object]) -> Item:
        """The first pod of a Job for which something is true. Waits for it."""
        return wait_for(lambda: next((pod for pod in self.pods(name) if true(pod)), None), 20, f"a pod of {name}")

    def running(self, name: str) -> Item:
        return self.pod_where(name, lambda pod: pod["status"]["phase"] == "Running")

    def log(self, name: str, **query: Any) -> str:
        """Of the only pod of a Job."""
        [pod] = self.pods(name)
        return self.http.get(f"{PODS}/{pod['metadata']['name']}/log", params=query).text

    def watch(self, path: str, **query: Any) -> list[Item]:
        """All events until the server ends the watch."""
        with self.http.stream("GET", path, params={"watch": "1", "timeoutSeconds": 1, **query}) as answer:
            assert answer.status_code == 200
            return [json.loads(line) for line in answer.iter_lines()]


def state(pod: Item) -> Item:
    """Of its only container."""
    statuses = pod["status"].get("containerStatuses")
    found: Item = statuses[0]["state"] if statuses else {}
    return found


def conditions(item: Item) -> dict[str, Item]:
    return {one["type"]: one for one in item["status"].get("conditions", ())}
