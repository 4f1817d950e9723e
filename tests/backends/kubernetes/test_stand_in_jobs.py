"""Jobs and pods of the stand-in, as a current server has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.hpc.attempt.process_tree import table
from tests.backends.kubernetes.stand_in_client import JOBS, PODS, Client, condition, job, state, waiting_reason
from tests.backends.kubernetes.strict import strictly_valid
from tests.stand_ins.kubernetes import ApiServer, Image, Node
from tests.support.waiting import wait_until

IMAGES = {
    "bb:1": Image(),
    "pretend:1": Image(pretend_seconds=5),
    "started:1": Image(entrypoint=("echo",), cmd=("cmd",)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    directory = tmp_path_factory.mktemp("stand-in")
    claim = directory / "claimed"
    claim.mkdir()
    nodes = [Node("n1", cpu="4", memory="8Gi", labels={"disk": "fast"})]
    with ApiServer(directory, images=IMAGES, nodes=nodes, claims={"data": claim}, clock_scale=10) as server:
        yield server


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.close()


def test_success(client: Client) -> None:
    client.create("ok", "echo out; sleep 0.3; echo words > /dev/termination-log")
    done = client.finished("ok")
    assert [(one["type"], one["reason"]) for one in done["status"]["conditions"]] == [
        ("SuccessCriteriaMet", "CompletionsReached"),
        ("Complete", "CompletionsReached"),
    ]
    assert done["status"]["succeeded"] == 1
    assert done["status"]["ready"] == done["status"]["terminating"] == 0
    assert "completionTime" in done["status"]
    assert "active" not in done["status"]
    [pod] = client.pods("ok")
    assert pod["status"]["phase"] == "Succeeded"
    assert state(pod)["terminated"]["exitCode"] == 0
    assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "ok"
    assert client.log(pod).text == "out\n"
    assert {"SuccessfulCreate", "Scheduled", "Pulled", "Created", "Started", "Completed"} <= client.reasons("ok")


def test_failure(client: Client) -> None:
    client.create("fail", "exit 7")
    done = client.finished("fail")
    end = condition(done)
    assert end is not None
    assert (end["type"], end["reason"]) == ("Failed", "BackoffLimitExceeded")
    assert done["status"]["failed"] == 1
    assert "completionTime" not in done["status"]
    assert state(client.pods("fail")[0])["terminated"]["exitCode"] == 7


def test_back_off(client: Client) -> None:
    """A failed pod is replaced, and all of them stay."""
    client.create("retry", "exit 1", backoffLimit=1)
    assert client.finished("retry")["status"]["failed"] == 2
    assert len(client.pods("retry")) == 2


def test_on_failure_restarts_in_the_same_pod(client: Client) -> None:
    client.create("again", "exit 1", pod={"restartPolicy": "OnFailure"}, backoffLimit=1)
    assert (condition(client.finished("again")) or {})["reason"] == "BackoffLimitExceeded"


def test_deadline(client: Client) -> None:
    client.create("late", "sleep 100", activeDeadlineSeconds=5)
    assert (condition(client.finished("late")) or {})["reason"] == "DeadlineExceeded"
    wait_until(lambda: not client.pods("late"), what="the pod to be gone")


def test_time_to_live(client: Client) -> None:
    client.create("brief", "true", ttlSecondsAfterFinished=2)
    wait_until(lambda: client.http.get(f"{JOBS}/brief").status_code == 404, what="the Job to be gone")
    assert not client.pods("brief")


@pytest.mark.needs("memory groups")
def test_out_of_memory(client: Client) -> None:
    container = {"resources": {"limits": {"memory": "32Mi"}}}
    client.create("hungry", "dd if=/dev/zero of=/dev/null bs=300M count=1", container=container)
    assert (condition(client.finished("hungry")) or {})["reason"] == "BackoffLimitExceeded"
    ended = state(client.pods("hungry")[0])["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_command_not_found(client: Client) -> None:
    client.create("missing", "", container={"command": ["no-such-program"]})
    client.finished("missing")
    ended = state(client.pods("missing")[0])["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert 'exec: "no-such-program": executable file not found in $PATH' in ended["message"]


def test_image_that_cannot_be_pulled(client: Client) -> None:
    client.create("pull", "true", container={"image": "no-such:1"})
    first = client.pod_where("pull", lambda pod: waiting_reason(pod) == "ErrImagePull")
    client.pod_where("pull", lambda pod: waiting_reason(pod) == "ImagePullBackOff")
    client.pod_where("pull", lambda pod: waiting_reason(pod) == "ErrImagePull")
    assert first["status"]["phase"] == "Pending"
    answer = client.log(first)
    assert answer.status_code == 400
    assert "trying and failing to pull image" in answer.json()["message"]
    assert client.job("pull")["status"]["active"] == 1
    client.http.delete(f"{JOBS}/pull", params={"propagationPolicy": "Background"})
    wait_until(lambda: not client.pods("pull"), what="the pod to be gone")


def test_image_that_is_never_pulled(client: Client) -> None:
    client.create("never", "true", container={"image": "no-such:1", "imagePullPolicy": "Never"})
    client.pod_where("never", lambda pod: waiting_reason(pod) == "ErrImageNeverPull")


@pytest.mark.parametrize(
    ("name", "pod", "container", "why"),
    [
        ("big", {}, {"resources": {"requests": {"cpu": "5"}}}, "1 Insufficient cpu"),
        ("odd", {}, {"resources": {"limits": {"example.org/gpu": 1}}}, "1 Insufficient example.org/gpu"),
        ("choosy", {"nodeSelector": {"disk": "slow"}}, {}, "didn't match Pod's node affinity/selector"),
        (
            "claims",
            {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "nobody"}}]},
            {},
            'persistentvolumeclaim "nobody" not found',
        ),
    ],
)
def test_unschedulable(client: Client, name: str, pod: dict[str, Any], container: dict[str, Any], why: str) -> None:
    client.create(name, "true", pod=pod, container=container)
    found = client.pod_where(name, lambda pod: pod["status"].get("conditions"))
    [told] = found["status"]["conditions"]
    assert (told["type"], told["status"], told["reason"]) == ("PodScheduled", "False", "Unschedulable")
    assert told["message"].startswith("0/1 nodes are available: ")
    assert why in told["message"]


def test_room_is_given_back(client: Client) -> None:
    container = {"resources": {"requests": {"cpu": "3"}}}
    client.create("first", "sleep 0.5", container=container, pod={"nodeSelector": {"disk": "fast"}})
    client.create("second", "true", container=container)
    client.finished("first")
    assert (condition(client.finished("second")) or {})["type"] == "Complete"


def test_policy_fails_the_job_at_once(client: Client) -> None:
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}
    client.create("policy", "exit 42", backoffLimit=3, podFailurePolicy={"rules": [rule]})
    end = condition(client.finished("policy")) or {}
    assert end["reason"] == "PodFailurePolicy"
    assert "failed with exit code 42 matching FailJob rule at index 0" in end["message"]


def test_policy_does_not_count_disruptions(client: Client, server: ApiServer) -> None:
    rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    client.create("evicted", "sleep 100", podFailurePolicy={"rules": [rule]})
    first = client.running("evicted")
    server.faults.evict(first["metadata"]["name"])
    gone = client.pod_where("evicted", lambda pod: pod["status"].get("reason") == "Evicted")
    assert gone["status"]["phase"] == "Failed"
    assert "low on resource" in gone["status"]["message"]
    second = client.pod_where("evicted", lambda pod: pod["metadata"]["uid"] != first["metadata"]["uid"])
    assert condition(client.job("evicted")) is None
    assert second["metadata"]["name"] != first["metadata"]["name"]


def test_eviction_counts_without_a_policy(client: Client, server: ApiServer) -> None:
    client.create("unlucky", "sleep 100")
    server.faults.evict(client.running("unlucky")["metadata"]["name"])
    assert (condition(client.finished("unlucky")) or {})["reason"] == "BackoffLimitExceeded"
    conditions = {one["type"]: one for one in client.pods("unlucky")[0]["status"]["conditions"]}
    assert conditions["DisruptionTarget"]["reason"] == "TerminationByKubelet"


def test_background_deletion_ends_the_processes(client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    client.create("stop", f"echo $$$$ > {mark}; trap 'exit 0' TERM; sleep 1000 & wait")
    client.running("stop")
    wait_until(lambda: mark.exists() and mark.read_text(), what="the pid")
    answer = client.http.request("DELETE", f"{JOBS}/stop", json={"propagationPolicy": "Background"})
    assert (answer.status_code, answer.json()["status"]) == (200, "Success")
    assert client.http.get(f"{JOBS}/stop").status_code == 404
    wait_until(lambda: not client.pods("stop"), what="the pod to be gone")
    assert int(mark.read_text()) not in table()


def test_a_program_without_a_handler_is_killed_after_the_grace(client: Client) -> None:
    """As the first process of a container, it is spared a SIGTERM that it does not handle."""
    client.create("deaf", "exec sleep 1000")
    pod = client.running("deaf")
    client.http.delete(f"{JOBS}/deaf", params={"propagationPolicy": "Foreground"})
    assert "deletionTimestamp" in client.job("deaf")["metadata"]
    ended = client.pod_where("deaf", lambda pod: "terminated" in state(pod))
    assert state(ended)["terminated"]["exitCode"] == 137
    assert pod["metadata"]["uid"] == ended["metadata"]["uid"]
    wait_until(lambda: client.http.get(f"{JOBS}/deaf").status_code == 404, what="the Job to be gone")


def test_deletion_without_a_word_leaves_orphans(client: Client) -> None:
    client.create("orphan", "sleep 1000")
    pod = client.running("orphan")
    assert client.http.delete(f"{JOBS}/orphan").json()["kind"] == "Job"
    wait_until(lambda: client.http.get(f"{JOBS}/orphan").status_code == 404, what="the Job to be gone")
    [left] = client.pods("orphan")
    assert left["status"]["phase"] == "Running"
    assert "ownerReferences" not in left["metadata"]
    client.http.delete(f"{PODS}/{pod['metadata']['name']}", params={"gracePeriodSeconds": "0"})
    assert not client.pods("orphan")


def test_what_a_container_leaves_behind_goes_with_it(client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    client.create("daemon", f"setsid sh -c 'echo $$$$ > {mark}; exec sleep 1000' & while ! test -s {mark}; do :; done")
    client.finished("daemon")
    assert int(mark.read_text()) not in table()


def test_environment(client: Client) -> None:
    env = [
        {"name": "A", "value": "one"},
        {"name": "B", "value": "$(A) $(NOBODY) $$(A)"},
        {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    client.create(
        "env", 'echo "$A|$B|$ME|$1"; pwd', container={"env": env, "args": ["sh", "$(A)"], "workingDir": "/tmp"}
    )
    client.finished("env")
    [pod] = client.pods("env")
    assert client.log(pod).text == f"one|one $(NOBODY) $(A)|{pod['metadata']['name']}|one\n/tmp\n"


def test_entry_point_of_the_image(client: Client) -> None:
    for name, container, told in (("entry", {}, "cmd\n"), ("given", {"args": ["args"]}, "args\n")):
        body = job(name, "", container={"image": "started:1", **container})
        del body["spec"]["template"]["spec"]["containers"][0]["command"]
        assert client.http.post(JOBS, json=body).status_code == 201
        client.finished(name)
        assert client.log(client.pods(name)[0]).text == told


@pytest.mark.needs("root")
def test_volumes(client: Client, server: ApiServer, tmp_path: Path) -> None:
    """Wherever the pod wants them, without a trace on the machine."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "file").write_text("there\n")
    volumes = [
        {"name": "host", "hostPath": {"path": str(host)}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "empty", "emptyDir": {}},
    ]
    mounts = [
        {"name": "host", "mountPath": "/no-such/input", "readOnly": True},
        {"name": "claim", "mountPath": "/no-such/output", "subPath": "a/b"},
        {"name": "empty", "mountPath": "/no-such/scratch"},
    ]
    command = (
        "cat /no-such/input/file; touch /no-such/input/x || echo read-only; "
        "echo made > /no-such/output/file; touch /no-such/scratch/y && echo scratch"
    )
    client.create("mounts", command, pod={"volumes": volumes}, container={"volumeMounts": mounts})
    client.finished("mounts")
    lines = client.log(client.pods("mounts")[0]).text.splitlines()
    assert {"there", "read-only", "scratch"} <= set(lines)
    assert (server.directory / "claimed" / "a" / "b" / "file").read_text() == "made\n"
    assert not Path("/no-such").exists()


def test_missing_host_path(client: Client, tmp_path: Path) -> None:
    """A volume that is not there keeps the pod from starting, until it is; an event says so."""
    path = tmp_path / "later"
    volumes = [{"name": "v", "hostPath": {"path": str(path), "type": "Directory"}}]
    mounts = [{"name": "v", "mountPath": str(path)}]
    client.create("mountless", "true", pod={"volumes": volumes}, container={"volumeMounts": mounts})
    wait_until(lambda: "FailedMount" in client.reasons("mountless"), what="an event")
    assert waiting_reason(client.pods("mountless")[0]) == "ContainerCreating"
    path.mkdir()
    assert (condition(client.finished("mountless")) or {})["type"] == "Complete"


def test_secret_that_is_not_there(client: Client) -> None:
    env = [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "nobody", "key": "k"}}}]
    client.create("secret", "true", container={"env": env})
    pod = client.pod_where("secret", lambda pod: waiting_reason(pod) == "CreateContainerConfigError")
    assert state(pod)["waiting"]["message"] == 'secret "nobody" not found'


def test_init_containers_come_first(client: Client) -> None:
    first = {"name": "first", "image": "bb:1", "command": ["sh", "-c", "echo first; sleep 0.2"]}
    client.create("prepared", "echo then", pod={"initContainers": [first]})
    assert (condition(client.finished("prepared")) or {})["type"] == "Complete"
    [pod] = client.pods("prepared")
    assert client.log(pod, container="first").text == "first\n"
    assert client.log(pod).status_code == 400
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_logs(client: Client) -> None:
    client.create("talk", "for i in 1 2 3; do echo $i; done; printf rest; sleep 0.3; echo; echo end")
    running = client.running("talk")
    followed = client.log(running, follow="true").text
    assert followed == "1\n2\n3\nrest\nend\n"
    client.finished("talk")
    [pod] = client.pods("talk")
    assert client.log(pod, tailLines=1).text == "end\n"
    assert client.log(pod, limitBytes=3).text == "1\n2"
    stamped = client.log(pod, timestamps="true", tailLines=1).text
    assert stamped.split(" ", 1)[1] == "end\n"
    assert client.log(pod, previous="true").status_code == 400


def test_last_words_fall_back_to_the_log(client: Client) -> None:
    client.create("words", "echo famous >&2; exit 1", container={"terminationMessagePolicy": "FallbackToLogsOnError"})
    client.finished("words")
    assert state(client.pods("words")[0])["terminated"]["message"] == "famous\n"


def test_a_crowd_that_only_pretends(client: Client) -> None:
    names = [f"crowd{number}" for number in range(20)]
    for name in names:
        client.create(name, "true", container={"image": "pretend:1"})
    for name in names:
        assert (condition(client.finished(name)) or {})["type"] == "Complete"


def test_everything_served_is_valid(client: Client) -> None:
    """By the strict schemas: nothing is served that a current server does not have."""
    for kind, path in (("Job", "/apis/batch/v1/jobs"), ("Pod", "/api/v1/pods"), ("Event", "/api/v1/events"),
                       ("Namespace", "/api/v1/namespaces"), ("Node", "/api/v1/nodes")):  # fmt: skip
        found = client.http.get(path).raise_for_status().json()
        for item in found["items"]:
            strictly_valid({"kind": kind, "apiVersion": found["apiVersion"], **item})
        assert found["items"], kind
