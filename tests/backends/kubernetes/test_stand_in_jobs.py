"""Jobs, pods and nodes of the stand-in, as a current server has them. What a 1.20 did is in test_traces."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.attempt.process_tree import look, table
from tests.backends.kubernetes.stand_in_client import EVENTS, JOBS, PODS, Client, Item, conditions, state
from tests.stand_ins.kubernetes import ApiServer, Image, Node
from tests.stand_ins.kubernetes.schemas import validator
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

BACKGROUND = {"propagationPolicy": "Background"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    directory = tmp_path_factory.mktemp("stand-in")
    (directory / "claimed").mkdir()
    nodes, claims = [Node("n1", cpu="4", memory="8Gi")], {"data": directory / "claimed"}
    with ApiServer(directory, images={"bb:1": Image()}, nodes=nodes, claims=claims, clock_scale=10) as server:
        yield server


@pytest.fixture
def client(server: ApiServer) -> Client:
    return Client.of(server)


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[ApiServer]:
    nodes = [Node("n1"), Node("n2")]
    with ApiServer(tmp_path / "two", images={"bb:1": Image()}, nodes=nodes, clock_scale=40) as server:
        yield server


def test_success(client: Client) -> None:
    client.create("ok", "echo out; echo words > /dev/termination-log")
    assert client.ended("ok") == "CompletionsReached"
    job = client.job("ok")
    assert list(conditions(job)) == ["SuccessCriteriaMet", "Complete"]
    assert {"startTime", "completionTime"} <= job["status"].keys()
    counts = {name: job["status"].get(name) for name in ("active", "succeeded", "failed", "ready", "terminating")}
    assert counts == {"active": None, "succeeded": 1, "failed": None, "ready": 0, "terminating": 0}
    [pod] = client.pods("ok")
    assert (pod["status"]["phase"], state(pod)["terminated"]["message"]) == ("Succeeded", "words\n")
    assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "ok"
    assert client.log("ok") == "out\n"


def test_back_off(client: Client) -> None:
    """A failed pod is replaced, and all of them stay."""
    client.create("retry", "exit 7", backoffLimit=1)
    assert client.ended("retry") == "BackoffLimitExceeded"
    assert [state(pod)["terminated"]["exitCode"] for pod in client.pods("retry")] == [7, 7]


def test_limits_of_time(client: Client) -> None:
    client.create("late", "sleep 100", activeDeadlineSeconds=5)
    client.create("brief", "true", ttlSecondsAfterFinished=2)
    assert client.ended("late") == "DeadlineExceeded"
    wait_until(lambda: not client.pods("late"), what="the pod to be gone")
    wait_until(lambda: client.http.get(f"{JOBS}/brief").status_code == 404, what="the Job to be gone")
    assert not client.pods("brief")


def test_policy_fails_the_job_at_once(client: Client) -> None:
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}
    client.create("policy", "exit 42", backoffLimit=3, podFailurePolicy={"rules": [rule]})
    assert client.ended("policy") == "PodFailurePolicy"
    assert "exit code 42 matching FailJob rule at index 0" in conditions(client.job("policy"))["Failed"]["message"]


def test_eviction(client: Client, server: ApiServer) -> None:
    client.create("unlucky", "sleep 100")
    server.faults.evict(client.running("unlucky")["metadata"]["name"])
    assert client.ended("unlucky") == "BackoffLimitExceeded"
    [pod] = client.pods("unlucky")
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Evicted")
    assert conditions(pod)["DisruptionTarget"]["reason"] == "TerminationByKubelet"


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"image": "none:1"}, "ErrImagePull"),
        ({"image": "none:1", "imagePullPolicy": "Never"}, "ErrImageNeverPull"),
        (
            {"env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            "CreateContainerConfigError",
        ),
    ],
)
def test_containers_that_wait(client: Client, container: Item, reason: str) -> None:
    name = reason.lower()
    client.create(name, "true", container=container)
    pod = client.pod_where(name, lambda pod: state(pod).get("waiting", {}).get("reason") == reason)
    assert pod["status"]["phase"] == "Pending"
    client.http.delete(f"{JOBS}/{name}", params=BACKGROUND)
    wait_until(lambda: not client.pods(name), what="the pod to be gone")


def test_command_not_found(client: Client) -> None:
    client.create("missing", "", container={"command": ["no-such-program"]})
    client.ended("missing")
    ended = state(client.pods("missing")[0])["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")


@pytest.mark.parametrize(
    ("name", "pod", "container", "why"),
    [
        ("big", {}, {"resources": {"requests": {"cpu": "5"}}}, "1 Insufficient cpu"),
        ("odd", {}, {"resources": {"limits": {"example.org/gpu": 1}}}, "1 Insufficient example.org/gpu"),
        ("choosy", {"nodeSelector": {"disk": "slow"}}, {}, "node affinity/selector"),
        (
            "claims",
            {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}]},
            {},
            '"none" not found',
        ),
    ],
)
def test_unschedulable(client: Client, name: str, pod: Item, container: Item, why: str) -> None:
    client.create(name, "true", pod=pod, container=container)
    found = conditions(client.pod_where(name, conditions))["PodScheduled"]
    assert (found["status"], found["reason"]) == ("False", "Unschedulable")
    assert why in found["message"]


def test_room_is_given_back(client: Client) -> None:
    container = {"resources": {"requests": {"cpu": "3"}}}
    client.create("first", "sleep 0.5", container=container)
    client.create("second", "true", container=container)
    assert client.ended("second") == "CompletionsReached"


def test_deletion_ends_the_processes(client: Client, tmp_path: Path) -> None:
    """The first process of a container does not see a SIGTERM that it does not handle: SIGKILL ends it."""
    polite, deaf = tmp_path / "polite", tmp_path / "deaf"
    client.create("polite", f"trap 'exit 0' TERM; echo $$$$ > {polite}; sleep 1000 & wait")
    client.create("deaf", f"echo $$$$ > {deaf}; exec sleep 1000")
    wait_until(lambda: all(each.exists() and each.read_text() for each in (polite, deaf)), what="both to run")
    start = client.http.get(PODS).json()["metadata"]["resourceVersion"]
    assert client.http.delete(f"{JOBS}/polite", params=BACKGROUND).json()["status"] == "Success"
    assert client.http.get(f"{JOBS}/polite").status_code == 404
    client.http.delete(f"{JOBS}/deaf", params={"propagationPolicy": "Foreground"})
    assert "deletionTimestamp" in client.job("deaf")["metadata"]
    wait_until(lambda: client.http.get(f"{JOBS}/deaf").status_code == 404, what="the Job to be gone")
    wait_until(lambda: not client.pods("polite"), what="the pod to be gone")
    for name, code in (("polite", 0), ("deaf", 137)):
        pods = [one["object"] for one in client.watch(PODS, resourceVersion=start, labelSelector=f"job-name={name}")]
        assert code in [state(pod)["terminated"]["exitCode"] for pod in pods if "terminated" in state(pod)]
    assert not {int(polite.read_text()), int(deaf.read_text())} & table().keys()


def test_what_a_container_leaves_behind_goes_with_it(client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    client.create("daemon", f"setsid sh -c 'echo $$$$ > {mark}; exec sleep 1000' & while ! test -s {mark}; do :; done")
    client.ended("daemon")
    assert int(mark.read_text()) not in table()


def test_environment(client: Client) -> None:
    env = [
        {"name": "A", "value": "one"},
        {"name": "B", "value": "$(A) $(NONE) $$(A)"},
        {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    container = {"env": env, "args": ["sh", "$(A)"], "workingDir": "/tmp"}
    client.create("env", 'echo "$A|$B|$ME|$1"; pwd', container=container)
    client.ended("env")
    [pod] = client.pods("env")
    assert client.log("env") == f"one|one $(NONE) $(A)|{pod['metadata']['name']}|one\n/tmp\n"


@pytest.mark.needs("root")
def test_volumes(client: Client, server: ApiServer, tmp_path: Path) -> None:
    """They are mounted where the pod wants them, without a trace on the machine."""
    (tmp_path / "file").write_text("there\n")
    volumes = [
        {"name": "host", "hostPath": {"path": str(tmp_path)}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
    ]
    mounts = [
        {"name": "host", "mountPath": "/no-such/input", "readOnly": True},
        {"name": "claim", "mountPath": "/no-such/output", "subPath": "a/b"},
    ]
    command = "cat /no-such/input/file; touch /no-such/input/x || echo read-only; echo made > /no-such/output/file"
    client.create("mounts", command, pod={"volumes": volumes}, container={"volumeMounts": mounts})
    client.ended("mounts")
    assert {"there", "read-only"} <= set(client.log("mounts").splitlines())
    assert (server.directory / "claimed" / "a" / "b" / "file").read_text() == "made\n"
    assert not Path("/no-such").exists()


def test_logs(client: Client) -> None:
    client.create("talk", "for i in 1 2 3; do echo $i; done; printf rest; sleep 0.3; echo; echo end")
    client.ended("talk")
    assert client.log("talk") == "1\n2\n3\nrest\nend\n"
    assert client.log("talk", timestamps="true", tailLines=1).split(" ", 1)[1] == "end\n"


def test_last_words_fall_back_to_the_log(client: Client) -> None:
    client.create("words", "echo famous >&2; exit 1", container={"terminationMessagePolicy": "FallbackToLogsOnError"})
    client.ended("words")
    assert state(client.pods("words")[0])["terminated"]["message"] == "famous\n"


def test_a_lost_node_leaves_two_pods(two_nodes: ApiServer) -> None:
    """The pod of the lost node still seems to run when its replacement does."""
    key = "node.kubernetes.io/unreachable"
    toleration = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
    client = Client.of(two_nodes)
    client.create("lost", "sleep 1000", pod={"tolerations": [toleration]}, backoffLimit=3)
    first = client.running("lost")
    two_nodes.faults.lose_node("n1")
    other = client.pod_where("lost", lambda pod: pod["spec"].get("nodeName") == "n2")
    assert other["metadata"]["uid"] != first["metadata"]["uid"]
    path = f"{PODS}/{first['metadata']['name']}"
    lost = client.http.get(path).json()
    assert "deletionTimestamp" in lost["metadata"]
    assert lost["status"]["phase"] == "Running"
    assert client.http.get(f"{path}/log").status_code == 500
    two_nodes.faults.return_node("n1")
    wait_until(lambda: client.http.get(path).status_code == 404, what="the first pod to be gone")


def test_when_all_nodes_are_lost_nothing_is_evicted(two_nodes: ApiServer) -> None:
    client = Client.of(two_nodes)
    client.create("alone", "sleep 1000")
    client.running("alone")
    for name in ("n1", "n2"):
        two_nodes.faults.lose_node(name)
    pod = client.pod_where("alone", lambda pod: conditions(pod)["Ready"]["status"] == "False")
    assert pod["status"]["phase"] == "Running"
    assert "deletionTimestamp" not in pod["metadata"]


def test_a_removed_node_takes_its_pods_with_it(two_nodes: ApiServer) -> None:
    client = Client.of(two_nodes)
    client.create("gone", "sleep 1000")
    client.running("gone")
    two_nodes.faults.remove_node("n1")
    assert client.ended("gone") == "BackoffLimitExceeded"


SERVER = """
import pathlib, signal, sys
from tests.stand_ins.kubernetes import ApiServer, Image
with ApiServer(pathlib.Path(sys.argv[1]), images={"bb:1": Image()}) as server:
    print(server.url, flush=True)
    signal.pause()
"""


def test_nothing_outlives_a_killed_server(tmp_path: Path, reaper: Reaper) -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    reaper.watch(process.pid)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    client, mark = Client(url, (tmp_path / "token").read_text()), tmp_path / "pid"
    client.create("deaf", f"trap '' TERM; setsid sh -c 'echo $$$$ > {mark}; sleep 1000' & wait")
    wait_until(lambda: mark.exists() and mark.read_text().strip(), what="the program to run")
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: not look(int(mark.read_text())), what="the container to be gone")


def test_everything_served_is_valid(client: Client) -> None:
    """By the strict schemas: nothing is served that a current server does not have."""
    for kind, path in (("Job", JOBS), ("Pod", PODS), ("Event", EVENTS)):
        found = client.http.get(path).raise_for_status().json()
        assert found["items"], kind
        for item in found["items"]:
            validator(kind).validate({"kind": kind, "apiVersion": found["apiVersion"], **item})
