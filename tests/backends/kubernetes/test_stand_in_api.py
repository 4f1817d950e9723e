"""The API of the stand-in as current servers document it: answers, lists, watches, faults.

What a 1.20 answered is in test_traces.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.backends.kubernetes.stand_in_client import JOBS, PODS, Client, Item, job
from tests.stand_ins.kubernetes import ApiServer, Image, Node
from tests.support.waiting import PATIENCE

IMAGES = {"bb:1": Image()}
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path / "stand-in", images=IMAGES, nodes=[Node("n1", cpu="1")], clock_scale=20) as server:
        yield server


@pytest.fixture
def client(server: ApiServer) -> Client:
    return Client.of(server)


def idle(name: str, **labels: str) -> Item:
    """A Job whose pod fits on no node."""
    body = job(name, "true", pod={"nodeSelector": {"no": "where"}})
    body["metadata"]["labels"] = labels
    return body


def make(client: Client, *names: str, **labels: str) -> None:
    for name in names:
        assert client.http.post(JOBS, json=idle(name, **labels)).status_code == 201


def label(client: Client, name: str, value: str) -> None:
    patch = {"metadata": {"labels": {"x": value}}}
    assert client.http.patch(f"{JOBS}/{name}", json=patch, headers=STRATEGIC).status_code == 200


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["reason"]


def version(client: Client) -> str:
    return str(client.http.get(JOBS).json()["metadata"]["resourceVersion"])


def names(found: Item) -> list[str]:
    return [item["metadata"]["name"] for item in found["items"]]


TEMPLATE = "spec.template.spec"


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"metadata": {}}, 422, "metadata.name"),
        ({"metadata": {"name": "x" * 64}}, 422, "spec.template.labels"),
        ({"spec": {"activeDeadlineSeconds": -1}}, 422, "spec.activeDeadlineSeconds"),
        ({"spec": {"template": None}}, 422, "spec.template"),
        ({"spec": {"template": {"spec": {"containers": "x"}}}}, 400, None),
        ({"spec": {"podFailurePolicy": {"rules": [{}]}}}, 422, "spec.podFailurePolicy.rules[0].action"),
    ],
)
def test_refused_jobs(client: Client, change: Item, code: int, field: str | None) -> None:
    body = idle("x")
    body = {**body, **change, "spec": {**body["spec"], **change.get("spec", {})}}
    answer = client.http.post(JOBS, json=body)
    assert answer.status_code == code, answer.text
    if field is not None:
        assert field in [cause["field"] for cause in answer.json()["details"]["causes"]]


@pytest.mark.parametrize(
    ("container", "field"),
    [
        ({"volumeMounts": [{"name": "none", "mountPath": "/x"}]}, "volumeMounts[0].name"),
        ({"resources": {"limits": {"cpu": "many"}}}, "limits[cpu]"),
    ],
)
def test_refused_containers(client: Client, container: Item, field: str) -> None:
    answer = client.http.post(JOBS, json=job("x", "true", container=container))
    assert [cause["field"] for cause in answer.json()["details"]["causes"]] == [f"{TEMPLATE}.containers[0].{field}"]


def test_unknown_fields_are_dropped(client: Client) -> None:
    body = idle("odd")
    body["spec"]["template"]["spec"]["containers"][0]["colour"] = "red"
    answer = client.http.post(JOBS, json=body)
    assert answer.status_code == 201
    assert "colour" not in answer.text


def test_pages(client: Client, server: ApiServer) -> None:
    make(client, "a", "b", "c")
    token = client.http.get(JOBS, params={"limit": 2}).json()["metadata"]["continue"]
    rest = client.http.get(JOBS, params={"limit": 2, "continue": token}).json()
    assert names(rest) == ["c"]
    assert "continue" not in rest["metadata"]
    server.faults.forget_history()
    expired = client.http.get(JOBS, params={"continue": token})
    assert refusal(expired) == (410, "Expired")
    fresh = expired.json()["metadata"]["continue"]
    assert names(client.http.get(JOBS, params={"continue": fresh}).json()) == ["c"]
    assert refusal(client.http.get(JOBS, params={"continue": "nonsense"})) == (400, "BadRequest")


def test_watch_through_a_selector(client: Client) -> None:
    """An object comes and goes with its label; without a selector it is the same object all the time."""
    start = version(client)
    make(client, "moving")
    label(client, "moving", "in")
    label(client, "moving", "out")
    events = client.watch(JOBS, resourceVersion=start, labelSelector="x=in", allowWatchBookmarks="true")
    types = [event["type"] for event in events if event["type"] != "MODIFIED"]
    assert (types[:2], types[-1]) == (["ADDED", "DELETED"], "BOOKMARK")
    assert {event["type"] for event in client.watch(JOBS, resourceVersion=start)} == {"ADDED", "MODIFIED"}
    assert client.watch(JOBS)[0]["type"] == "ADDED"


def test_expired_watches(client: Client, server: ApiServer) -> None:
    """An ERROR event on 200, or 410; and an old version is too old when the history is gone."""
    server.faults.expire_watches()
    [event] = client.watch(JOBS, resourceVersion="1")
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    server.faults.expire_watches("http")
    assert client.http.get(JOBS, params={"watch": "1", "resourceVersion": "1"}).status_code == 410
    start = version(client)
    server.faults.forget_history()
    [event] = client.watch(JOBS, resourceVersion=start)
    assert event["object"]["code"] == 410


def test_many_watchers_and_writers(client: Client) -> None:
    """Every watcher sees every change, in the same order."""
    start = version(client)
    seen: list[list[tuple[str, str]]] = [[] for _ in range(3)]

    def look(into: list[tuple[str, str]]) -> None:
        """Until the last Job is made."""
        with client.http.stream("GET", JOBS, params={"watch": "1", "resourceVersion": start}) as answer:
            for line in answer.iter_lines():
                event = json.loads(line)
                into.append((event["type"], event["object"]["metadata"]["resourceVersion"]))
                if sum(kind == "ADDED" for kind, _ in into) == 15:
                    return

    threads = [threading.Thread(target=partial(look, into)) for into in seen]
    threads += [threading.Thread(target=partial(make, client, *(f"w{n}-{i}" for i in range(5)))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(kind == "ADDED" for kind, _ in seen[0]) == 15
    assert seen[0] == seen[1] == seen[2]


def test_faults_of_chosen_requests(client: Client, server: ApiServer) -> None:
    server.faults.server_error(None, status=503, method="POST", path="/jobs")
    assert client.http.get(JOBS).status_code == 200
    assert refusal(client.http.post(JOBS, json=idle("x"))) == (503, "ServiceUnavailable")
    server.faults.clear()
    server.faults.too_many_requests(1, retry_after=7)
    answer = client.http.get(JOBS)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert [(one.method, one.path, one.status) for one in server.requests[-2:]] == [
        ("POST", JOBS, 503),
        ("GET", JOBS, 429),
    ]


@pytest.mark.parametrize(("fault", "status"), [("lose_answer", 200), ("drop", 404)])
def test_connections_that_are_cut(client: Client, server: ApiServer, fault: str, status: int) -> None:
    """With one fault the Job is made though its answer is lost, with the other it is not."""
    getattr(server.faults, fault)(method="POST")
    with pytest.raises(httpx.RemoteProtocolError):
        client.http.post(JOBS, json=idle("x"))
    assert client.http.get(f"{JOBS}/x").status_code == status


def test_a_watch_that_is_cut(client: Client, server: ApiServer) -> None:
    with client.http.stream("GET", JOBS, params={"watch": "1"}) as answer:
        server.faults.close_watches()
        with pytest.raises(httpx.RemoteProtocolError):
            list(answer.iter_lines())


def test_tokens(client: Client, server: ApiServer) -> None:
    server.faults.expire_tokens()
    assert client.http.get(JOBS).status_code == 401
    assert Client.of(server).http.get(JOBS).status_code == 200
    assert json.loads(server.kubeconfig.read_text())["users"][0]["user"]["token"] == server.token_file.read_text()


def test_rights(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get"]}]
    with ApiServer(tmp_path / "ruled", images=IMAGES, rules=rules) as server:
        client = Client.of(server)
        make(client, "x")
        assert client.http.get(f"{JOBS}/x").status_code == 200
        assert client.http.get(PODS).status_code == 403
        answer = client.http.get(JOBS)
        assert refusal(answer) == (403, "Forbidden")
        assert 'cannot list resource "jobs" in API group "batch"' in answer.json()["message"]
        server.faults.forbid("get", "jobs")
        assert client.http.get(f"{JOBS}/x").status_code == 403
