"""Talking to the stand-in with plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.stand_ins.kubernetes import ApiServer, RemoteServer
from tests.support.waiting import wait_for

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"


def job(name: str, command: str, *, pod: dict[str, Any] | None = None, container: dict[str, Any] | None = None,
        **spec: Any) -> dict[str, Any]:  # fmt: skip
    """A Job that runs a shell command."""
    main = {"name": "m", "image": "bb:1", "command": ["sh", "-c", command], **(container or {})}
    template = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [main], **(pod or {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": template}, **spec},
    }


class Client:
    """What tests ask."""

    def __init__(self, server: ApiServer | RemoteServer) -> None:
        headers = {"Authorization": f"Bearer {server.token_file.read_text()}"}
        self.http = httpx.Client(base_url=server.url, headers=headers, timeout=30)

    def close(self) -> None:
        self.http.close()

    def create(self, name: str, command: str, **more: Any) -> dict[str, Any]:
        answer = self.http.post(JOBS, json=job(name, command, **more))
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def job(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"{JOBS}/{name}").raise_for_status().json()
        return found

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a Job, the oldest first."""
        answer = self.http.get(PODS, params={"labelSelector": f"job-name={name}"}).raise_for_status()
        items: list[dict[str, Any]] = answer.json()["items"]
        return sorted(items, key=lambda item: str(item["metadata"]["creationTimestamp"]))

    def finished(self, name: str, timeout: float = 20) -> dict[str, Any]:
        """The Job, once it has ended."""
        return wait_for(lambda: found if condition(found := self.job(name)) else None, timeout, f"the end of {name}")

    def pod_where(self, name: str, true: Callable[[dict[str, Any]], object], timeout: float = 20) -> dict[str, Any]:
        """The first pod of a Job for which something is true."""
        return wait_for(lambda: next((pod for pod in self.pods(name) if true(pod)), None), timeout, f"a pod of {name}")

    def running(self, name: str) -> dict[str, Any]:
        return self.pod_where(name, lambda pod: pod["status"]["phase"] == "Running")

    def log(self, pod: dict[str, Any], **query: Any) -> httpx.Response:
        return self.http.get(f"{PODS}/{pod['metadata']['name']}/log", params=query)

    def watch(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All events until the server ends the watch."""
        with self.http.stream("GET", path, params={"watch": "1", "timeoutSeconds": 1, **query}) as answer:
            assert answer.status_code == 200
            return [json.loads(line) for line in answer.iter_lines()]

    def reasons(self, name: str) -> set[str]:
        """Of the events about a Job and its pods."""
        items = self.http.get(EVENTS).raise_for_status().json()["items"]
        return {item["reason"] for item in items if item["involvedObject"]["name"].split("-", 1)[0] == name}


def condition(job: dict[str, Any]) -> dict[str, Any] | None:
    """How a Job has ended; None as long as it has not."""
    ends = [one for one in job["status"].get("conditions", ()) if one["type"] in ("Complete", "Failed")]
    return ends[0] if ends else None


def state(pod: dict[str, Any]) -> dict[str, Any]:
    """Of its only container."""
    statuses = pod["status"].get("containerStatuses")
    found: dict[str, Any] = statuses[0]["state"] if statuses else {}
    return found


def waiting_reason(pod: dict[str, Any]) -> str | None:
    reason: str | None = state(pod).get("waiting", {}).get("reason")
    return reason
