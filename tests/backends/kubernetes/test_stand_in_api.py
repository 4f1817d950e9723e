"""The API of the stand-in: answers, lists, watches, patches, faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.backends.kubernetes.stand_in_client import JOBS, PODS, Client, condition, job, state
from tests.stand_ins.kubernetes import ApiServer, Image, Node
from tests.support.waiting import wait_until

IMAGES = {"bb:1": Image()}
RULE = "spec.podFailurePolicy.rules[0]"
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path / "stand-in", images=IMAGES, nodes=[Node("n1", cpu="1")], clock_scale=20) as server:
        yield server


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.close()


def held(name: str, **labels: str) -> dict[str, Any]:
    """A Job that nothing becomes of, because there is no room for it."""
    body = job(name, "true", pod={"nodeSelector": {"no": "where"}})
    body["metadata"]["labels"] = labels
    return body


def make(client: Client, *names: str, **labels: str) -> None:
    for name in names:
        assert client.http.post(JOBS, json=held(name, **labels)).status_code == 201


def test_adoption(client: Client) -> None:
    make(client, "twice")
    answer = client.http.post(JOBS, json=held("twice"))
    assert (answer.status_code, answer.json()["reason"]) == (409, "AlreadyExists")


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"metadata": {"name": "x" * 64}}, 422, "spec.template.labels"),
        ({"metadata": {}}, 422, "metadata.name"),
        ({"metadata": {"name": "x", "labels": {"a b": "c"}}}, 422, "metadata.labels"),
        ({"spec": {"activeDeadlineSeconds": -1}}, 422, "spec.activeDeadlineSeconds"),
        ({"spec": {"template": None}}, 422, "spec.template"),
        ({"spec": {"backoffLimit": "x"}}, 400, None),
        ({"spec": {"template": {"spec": {"containers": "x"}}}}, 400, None),
        (
            {"spec": {"podFailurePolicy": {"rules": [{"action": "Shrug"}]}}},
            422,
            f"{RULE}.action",
        ),
        ({"spec": {"podFailurePolicy": {"rules": [{}]}}}, 422, f"{RULE}.action"),
    ],
)
def test_refused(client: Client, change: dict[str, Any], code: int, field: str | None) -> None:
    body = held("x")
    for key, part in change.items():
        body[key] = part if key == "metadata" else {**body[key], **part}
    answer = client.http.post(JOBS, json=body)
    assert answer.status_code == code, answer.text
    if field is not None:
        assert field in [cause["field"] for cause in answer.json()["details"]["causes"]]


@pytest.mark.parametrize(
    ("container", "field"),
    [
        ({"name": "Bad"}, "name"),
        ({"image": ""}, "image"),
        ({"imagePullPolicy": "Sometimes"}, "imagePullPolicy"),
        ({"volumeMounts": [{"name": "nobody", "mountPath": "/x"}]}, "volumeMounts[0].name"),
        ({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}, "resources.requests"),
        ({"resources": {"limits": {"gpu": "1"}}}, "resources.limits[gpu]"),
        ({"resources": {"requests": {"a.b/gpu": "1"}}}, "resources.limits"),
    ],
)
def test_refused_container(client: Client, container: dict[str, Any], field: str) -> None:
    answer = client.http.post(JOBS, json=job("x", "true", container=container))
    assert answer.status_code == 422, answer.text
    fields = [cause["field"] for cause in answer.json()["details"]["causes"]]
    assert fields == [f"spec.template.spec.containers[0].{field}"]


def test_unknown_fields(client: Client) -> None:
    """Dropped with a warning, or refused by those who ask for it."""
    body = held("odd")
    body["spec"]["template"]["spec"]["containers"][0]["colour"] = "red"
    where = "spec.template.spec.containers[0].colour"
    strict = client.http.post(JOBS, json=body, params={"fieldValidation": "Strict"})
    assert strict.status_code == 400
    assert f'unknown field "{where}"' in strict.json()["message"]
    loose = client.http.post(JOBS, json=body)
    assert loose.status_code == 201
    assert loose.headers["warning"] == f'299 - "unknown field \\"{where}\\""'
    assert "colour" not in json.dumps(loose.json())


def test_dry_run(client: Client) -> None:
    assert client.http.post(JOBS, json=held("dry"), params={"dryRun": "All"}).status_code == 201
    assert client.http.get(f"{JOBS}/dry").status_code == 404


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("a=1", ["one"]),
        ("a==1,b", ["one"]),
        ("a!=1", ["none", "two"]),
        ("a in (1,2)", ["one", "two"]),
        ("a notin (1)", ["none", "two"]),
        ("!a", ["none"]),
        ("a", ["one", "two"]),
    ],
)
def test_labels(client: Client, selector: str, found: list[str]) -> None:
    make(client, "one", a="1", b="x")
    make(client, "two", a="2")
    make(client, "none", c="3")
    items = client.http.get(JOBS, params={"labelSelector": selector}).json()["items"]
    assert [item["metadata"]["name"] for item in items] == found


def test_fields(client: Client) -> None:
    make(client, "one", "two")
    items = client.http.get(JOBS, params={"fieldSelector": "metadata.name=two"}).json()["items"]
    assert [item["metadata"]["name"] for item in items] == ["two"]
    assert client.http.get(JOBS, params={"fieldSelector": "status.successful=0"}).json()["items"]
    assert client.http.get(PODS, params={"fieldSelector": "spec.nodeName=,status.phase=Pending"}).status_code == 200
    assert client.http.get(JOBS, params={"fieldSelector": "spec.colour=red"}).status_code == 400


def test_pages(client: Client, server: ApiServer) -> None:
    make(client, "a", "b", "c")
    first = client.http.get(JOBS, params={"limit": 2}).json()
    assert first["metadata"]["remainingItemCount"] == 1
    token = first["metadata"]["continue"]
    rest = client.http.get(JOBS, params={"limit": 2, "continue": token}).json()
    assert [item["metadata"]["name"] for item in rest["items"]] == ["c"]
    assert "continue" not in rest["metadata"]
    server.faults.forget_history()
    expired = client.http.get(JOBS, params={"continue": token})
    assert (expired.status_code, expired.json()["reason"]) == (410, "Expired")
    again = client.http.get(JOBS, params={"continue": expired.json()["metadata"]["continue"]}).json()
    assert [item["metadata"]["name"] for item in again["items"]] == ["c"]
    assert client.http.get(JOBS, params={"continue": "nonsense"}).status_code == 400


def test_watch_replays_what_has_been(client: Client) -> None:
    version = client.http.get(JOBS).json()["metadata"]["resourceVersion"]
    make(client, "seen")
    client.http.patch(f"{JOBS}/seen", json={"metadata": {"labels": {"x": "1"}}}, headers=MERGE)
    client.http.delete(f"{JOBS}/seen", params={"propagationPolicy": "Background"})
    types = [event["type"] for event in client.watch(JOBS, resourceVersion=version)]
    assert (types[0], types[-1]) == ("ADDED", "DELETED")
    assert set(types[1:-1]) == {"MODIFIED"}


def test_watch_without_a_version_starts_with_what_there_is(client: Client) -> None:
    make(client, "one", "two")
    events = client.watch(JOBS)
    assert [event["object"]["metadata"]["name"] for event in events[:2]] == ["one", "two"]
    assert {event["type"] for event in events[:2]} == {"ADDED"}


def test_watch_with_a_selector_sees_things_come_and_go(client: Client) -> None:
    version = client.http.get(JOBS).json()["metadata"]["resourceVersion"]
    make(client, "moving")
    for value in ("in", "out"):
        client.http.patch(f"{JOBS}/moving", json={"metadata": {"labels": {"x": value}}}, headers=MERGE)
    events = client.watch(JOBS, resourceVersion=version, labelSelector="x=in")
    assert [event["type"] for event in events if event["type"] != "MODIFIED"] == ["ADDED", "DELETED"]


def test_watch_of_the_future_waits(client: Client) -> None:
    assert client.watch(JOBS, resourceVersion="999999") == []


def test_bookmarks(client: Client) -> None:
    make(client, "one")
    events = client.watch(JOBS, allowWatchBookmarks="true")
    assert events[-1]["type"] == "BOOKMARK"
    assert int(events[-1]["object"]["metadata"]["resourceVersion"]) > 0


def test_expired_watches(client: Client, server: ApiServer) -> None:
    """An ERROR event on 200, or 410; and an old version is too old when the history is gone."""
    server.faults.expire_watches()
    [event] = client.watch(JOBS, resourceVersion="1")
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    server.faults.expire_watches("http")
    assert client.http.get(JOBS, params={"watch": "1", "resourceVersion": "1"}).status_code == 410
    version = client.http.get(JOBS).json()["metadata"]["resourceVersion"]
    server.faults.forget_history()
    [event] = client.watch(JOBS, resourceVersion=version)
    assert event["object"]["code"] == 410


def test_a_watch_is_cut(client: Client, server: ApiServer) -> None:
    opened = threading.Event()
    errors: list[Exception] = []

    def look() -> None:
        try:
            with client.http.stream("GET", JOBS, params={"watch": "1", "timeoutSeconds": 60}) as answer:
                opened.set()
                list(answer.iter_lines())
        except httpx.RemoteProtocolError as error:
            errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    assert opened.wait(10)
    server.faults.close_watches()
    thread.join(10)
    assert errors


def test_too_many_requests(client: Client, server: ApiServer) -> None:
    server.faults.too_many_requests(2, retry_after=7)
    for _ in range(2):
        answer = client.http.get(JOBS)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert answer.headers["content-type"].startswith("text/plain")
    assert client.http.get(JOBS).status_code == 200


def test_server_errors_for_chosen_requests(client: Client, server: ApiServer) -> None:
    server.faults.server_error(None, status=503, method="POST", path="/jobs")
    assert client.http.get(JOBS).status_code == 200
    assert client.http.post(JOBS, json=held("x")).json()["reason"] == "ServiceUnavailable"
    server.faults.clear()
    assert client.http.post(JOBS, json=held("x")).status_code == 201


def test_lost_answer(client: Client, server: ApiServer) -> None:
    """The Job is there, though its maker never heard of it."""
    server.faults.lose_answer()
    with pytest.raises(httpx.RemoteProtocolError):
        client.http.post(JOBS, json=held("made"))
    assert client.http.get(f"{JOBS}/made").status_code == 200


def test_dropped_request(client: Client, server: ApiServer) -> None:
    server.faults.drop(method="POST")
    with pytest.raises(httpx.RemoteProtocolError):
        client.http.post(JOBS, json=held("never"))
    assert client.http.get(f"{JOBS}/never").status_code == 404


def test_conflict_and_stale_versions(client: Client, server: ApiServer) -> None:
    make(client, "one")
    server.faults.conflict()
    answer = client.http.delete(f"{JOBS}/one")
    assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    old = client.job("one")
    client.http.patch(f"{JOBS}/one", json={"metadata": {"labels": {"x": "1"}}}, headers=MERGE)
    answer = client.http.put(f"{JOBS}/one", json=old)
    assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    assert client.http.put(f"{JOBS}/one", json=client.job("one")).status_code == 200


def test_tokens(client: Client, server: ApiServer) -> None:
    server.faults.expire_tokens()
    assert client.http.get(JOBS).status_code == 401
    renewed = Client(server)
    assert renewed.http.get(JOBS).status_code == 200
    assert json.loads(server.kubeconfig.read_text())["users"][0]["user"]["token"] == server.token_file.read_text()
    renewed.close()


def test_forbidden(client: Client, server: ApiServer) -> None:
    server.faults.forbid("create", "jobs")
    answer = client.http.post(JOBS, json=held("x"))
    assert (answer.status_code, answer.json()["reason"]) == (403, "Forbidden")
    assert 'cannot create resource "jobs" in API group "batch" in the namespace "default"' in answer.json()["message"]


def test_rules_of_a_role(tmp_path: Path) -> None:
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get"]}]
    with ApiServer(tmp_path / "ruled", images=IMAGES, rules=rules) as server:
        client = Client(server)
        assert client.http.post(JOBS, json=held("x")).status_code == 201
        assert client.http.get(f"{JOBS}/x").status_code == 200
        assert client.http.get(JOBS).status_code == 403
        assert client.http.get(PODS).status_code == 403
        asked = {"spec": {"resourceAttributes": {"verb": "list", "group": "batch", "resource": "jobs"}}}
        review = client.http.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", json=asked)
        assert review.json()["status"]["allowed"] is False
        client.close()


def test_a_lost_node_leaves_two_pods(tmp_path: Path) -> None:
    """The pod of the lost node still says that it runs when its replacement does."""
    key = "node.kubernetes.io/unreachable"
    toleration = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
    nodes = [Node("n1"), Node("n2")]
    with ApiServer(tmp_path / "two", images=IMAGES, nodes=nodes, clock_scale=40) as server:
        client = Client(server)
        client.create("lost", "sleep 1000", pod={"tolerations": [toleration]}, backoffLimit=3)
        first = client.running("lost")
        server.faults.lose_node("n1")
        other = client.pod_where("lost", lambda pod: pod["spec"].get("nodeName") == "n2")
        assert other["metadata"]["uid"] != first["metadata"]["uid"]
        mine = client.pod_where("lost", lambda pod: pod["spec"].get("nodeName") == "n1")
        assert "deletionTimestamp" in mine["metadata"]
        assert mine["status"]["phase"] == "Running"
        assert client.log(mine).status_code == 500
        server.faults.return_node("n1")
        wait_until(lambda: len(client.pods("lost")) == 1, what="the first pod to be gone")
        client.close()


def test_when_the_only_node_is_lost_nothing_is_evicted(client: Client, server: ApiServer) -> None:
    client.create("alone", "sleep 1000")
    client.running("alone")
    server.faults.lose_node()
    pod = client.pod_where("alone", lambda pod: _condition(pod, "Ready") == "False")
    assert pod["status"]["phase"] == "Running"
    assert "deletionTimestamp" not in pod["metadata"]


def test_a_removed_node_takes_its_pods_with_it(tmp_path: Path) -> None:
    with ApiServer(tmp_path / "s", images=IMAGES, nodes=[Node("n1"), Node("n2")], clock_scale=20) as server:
        client = Client(server)
        client.create("gone", "sleep 1000")
        client.running("gone")
        server.faults.remove_node("n1")
        assert (condition(client.finished("gone")) or {})["reason"] == "BackoffLimitExceeded"
        assert client.http.get("/api/v1/nodes/n1").status_code == 404
        client.close()


def _condition(pod: dict[str, Any], kind: str) -> str:
    return str({one["type"]: one["status"] for one in pod["status"].get("conditions", ())}.get(kind))


def test_metrics(tmp_path: Path) -> None:
    with ApiServer(tmp_path / "s", images=IMAGES, clock_scale=10, metrics=True) as server:
        client = Client(server)
        client.create("busy", "while :; do :; done")
        pod = client.running("busy")
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/{pod['metadata']['name']}"
        [container] = client.http.get(path).raise_for_status().json()["containers"]
        assert container["name"] == "m"
        assert int(container["usage"]["memory"].removesuffix("Ki")) > 0
        assert client.http.get(path + "x").status_code == 404
        client.close()


def test_requests_are_counted(client: Client, server: ApiServer) -> None:
    client.http.get(JOBS)
    server.faults.server_error()
    client.http.get(JOBS, params={"limit": "5"})
    assert [(one.method, one.path, one.query, one.status) for one in server.requests] == [
        ("GET", JOBS, "", 200),
        ("GET", JOBS, "limit=5", 500),
    ]


def test_many_watchers_and_writers(client: Client) -> None:
    """Every watcher sees every change, in the same order."""
    version = client.http.get(JOBS).json()["metadata"]["resourceVersion"]
    seen: list[list[tuple[str, str]]] = [[] for _ in range(4)]

    def look(place: list[tuple[str, str]]) -> None:
        events = client.watch(JOBS, resourceVersion=version, timeoutSeconds=4)
        place += [(event["type"], event["object"]["metadata"]["resourceVersion"]) for event in events]

    threads = [threading.Thread(target=partial(look, place)) for place in seen]
    threads += [threading.Thread(target=partial(make, client, *(f"w{n}-{i}" for i in range(5)))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(kind == "ADDED" for kind, _ in seen[0]) == 20
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_pods_of_its_own(client: Client) -> None:
    """A pod need not have a Job."""
    spec = job("x", "exit 3")["spec"]["template"]["spec"]
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "own-"}, "spec": spec}
    made = client.http.post(PODS, json=body)
    assert made.status_code == 201
    path = f"{PODS}/{made.json()['metadata']['name']}"
    wait_until(lambda: client.http.get(path).json()["status"]["phase"] == "Failed", what="its end")
    assert state(client.http.get(path).json())["terminated"]["exitCode"] == 3
    assert client.http.post(f"{path}/eviction", json={}).status_code == 201
    wait_until(lambda: client.http.get(path).status_code == 404, what="it to be gone")
