"""What the Kubernetes backend does when things break, and what only it has to do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from ccat_workflow_manager.errors import (
    BackendConfused,
    BackendError,
    BackendRejected,
    BackendUnavailable,
    JobDeferred,
)
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc import log_watch, registry
from ccat_workflow_manager.hpc.kubernetes import calls
from ccat_workflow_manager.hpc.kubernetes.answers import retry_after
from ccat_workflow_manager.hpc.kubernetes.backend import KubernetesBackend
from ccat_workflow_manager.hpc.kubernetes.metrics import quantity, usage_of
from ccat_workflow_manager.hpc.kubernetes.view import View
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.testing.harness import BackendHarness, Job
from tests.backends.kubernetes.conftest import IMAGES
from tests.stand_ins.kubernetes import ApiServer, Node
from tests.support.fixtures_service import PROGRAM
from tests.support.waiting import wait_for, wait_until

ROOT = Path(__file__).parents[3]
GATE = 'until [ -e "$1" ]; do sleep 0.05; done; exit 0'
Jobs = Callable[..., BackendHarness]


@pytest.fixture
def jobs_on(tmp_path: Path) -> Iterator[Jobs]:
    """Backends with their jobs, on the cluster of KUBECONFIG."""
    numbers = count()
    with ExitStack() as stack:

        def make(**more: Any) -> BackendHarness:
            settings = {
                "pipeline_base_dir": str(tmp_path), "namespace": "default", "launcher_image": "launcher:1",
                "poll_seconds": 0.2, "margin_seconds": 60, "kill_grace_seconds": 1, "request_seconds": 5, **more,
            }  # fmt: skip
            workdir = tmp_path / f"work-{next(numbers)}"
            harness = BackendHarness(create=lambda: KubernetesBackend(**settings), workdir=workdir)
            stack.callback(harness.close)
            return harness

        yield make


@pytest.fixture
def jobs(cluster: ApiServer, jobs_on: Jobs) -> BackendHarness:
    return jobs_on()


def backend_of(harness: BackendHarness) -> KubernetesBackend:
    assert isinstance(harness.backend, KubernetesBackend)
    return harness.backend


def view_of(harness: BackendHarness) -> View:
    return backend_of(harness)._view("default")


def gated(harness: BackendHarness) -> tuple[Job, Path]:
    """A job that runs until the file exists."""
    gate = harness.attempt().root / "go"
    job = harness.submit("/bin/sh", "-c", GATE, "sh", str(gate))
    harness.until(job, JobStatus.RUNNING)
    return job, gate


def name_of(job: Job) -> str:
    return job.id.partition("/")[2]


def apis() -> tuple[client.CoreV1Api, client.BatchV1Api]:
    """Somebody else's client."""
    api = config.new_client_from_config(os.environ["KUBECONFIG"])
    return client.CoreV1Api(api), client.BatchV1Api(api)


def pod_of(job: Job) -> str:
    core, _ = apis()
    return str(core.list_namespaced_pod("default", label_selector=f"job-name={name_of(job)}").items[0].metadata.name)


def watching(harness: BackendHarness) -> None:
    view_of(harness).begin_watching()
    wait_until(lambda: view_of(harness).watched, 10, "the watches to stand")


# --- one job for each attempt -----------------------------------------------------------------------------------------


def test_submitting_again_adopts(jobs: BackendHarness, tmp_path: Path) -> None:
    request = jobs.request("/bin/sh", "-c", 'echo once >> "$1"', "sh", str(tmp_path / "starts"))
    first = jobs.submit_request(request)
    assert {jobs.submit_request(request).id for _ in range(3)} == {first.id}
    jobs.until(first, JobStatus.COMPLETED)
    assert jobs.submit_request(request).id == first.id
    assert (tmp_path / "starts").read_text() == "once\n"


def test_a_lost_answer_is_one_job(jobs: BackendHarness, cluster: ApiServer, tmp_path: Path) -> None:
    cluster.faults.lose_answer(1)
    job = jobs.submit("/bin/sh", "-c", 'echo once >> "$1"', "sh", str(tmp_path / "starts"))
    jobs.until(job, JobStatus.COMPLETED)
    assert (tmp_path / "starts").read_text() == "once\n"


def test_a_name_that_is_somebody_elses(jobs: BackendHarness) -> None:
    request = jobs.request("true")
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "launcher:1"}]}}
    body = {"metadata": {"name": request.job_name}, "spec": {"template": template, "suspend": True}}
    apis()[1].create_namespaced_job("default", body)
    for act in (lambda: jobs.submit_request(request), lambda: jobs.backend.find(request.job_name)):
        with pytest.raises(BackendRejected, match="not ours"):
            act()
    apis()[1].delete_namespaced_job(request.job_name, "default", propagation_policy="Background")


def test_a_job_that_is_submitted_after_its_end_does_not_run_again(jobs: BackendHarness, tmp_path: Path) -> None:
    """Its Job was removed, by TTL or by hand, before anybody could record the end."""
    request = jobs.request("/bin/sh", "-c", 'echo once >> "$1"', "sh", str(tmp_path / "starts"))
    job = jobs.submit_request(request)
    jobs.until(job, JobStatus.COMPLETED)
    apis()[1].delete_namespaced_job(name_of(job), "default", propagation_policy="Background")
    other = jobs.create()
    assert wait_for(lambda: other.find(request.job_name) is None, 10)
    assert other.get_status(job.id).status is JobStatus.COMPLETED  # by its exit record
    jobs.backend.cleanup(job.id)
    again = jobs.submit_request(request)
    jobs.until(again, JobStatus.COMPLETED)
    other.close()
    assert (tmp_path / "starts").read_text() == "once\n"


def test_cancelled_before_it_begins_never_begins(own_cluster: ApiServer, jobs_on: Jobs, tmp_path: Path) -> None:
    jobs = jobs_on()
    big = replace(jobs.resources, cpu=4)
    blockers = [jobs.submit("sleep", "1000", resources=big) for _ in range(2)]
    waiting = jobs.submit("touch", str(tmp_path / "started"), resources=big)
    jobs.poll(
        lambda: "Insufficient cpu" in (jobs.backend.get_status(waiting.id).message or ""), "the reason of the wait"
    )
    jobs.backend.cancel(waiting.id)
    jobs.until(waiting, JobStatus.CANCELLED)
    for blocker in blockers:
        jobs.backend.cancel(blocker.id)
        jobs.until(blocker, JobStatus.CANCELLED)
    # Even if it were submitted again by one who does not know.
    again = jobs.submit_request(waiting.request)
    assert jobs.create().get_status(again.id).status in (JobStatus.CANCELLED, JobStatus.PENDING, JobStatus.RUNNING)
    jobs.until(jobs.submit("true", resources=big), JobStatus.COMPLETED)
    assert not (tmp_path / "started").exists()


def test_nothing_is_left_after_cleanup(jobs: BackendHarness, tmp_path: Path) -> None:
    job = jobs.submit("true")
    jobs.until(job, JobStatus.COMPLETED)
    jobs.backend.cleanup(job.id)
    core, batch = apis()
    selector = f"job-name={name_of(job)}"
    wait_until(lambda: not core.list_namespaced_pod("default", label_selector=selector).items, 20, "the pod to go")
    assert name_of(job) not in [each.metadata.name for each in batch.list_namespaced_job("default").items]
    assert not os.path.lexists(tmp_path / ".kubernetes" / name_of(job))
    assert jobs.backend.find(job.request.job_name) is None


# --- an API server in trouble -----------------------------------------------------------------------------------------


def test_busy_and_faulty_servers_are_asked_again(jobs: BackendHarness, cluster: ApiServer) -> None:
    faults = cluster.faults
    troubles: list[Callable[[], None]] = [
        lambda: faults.too_many_requests(1, method="POST"),
        lambda: faults.server_error(2, status=500, method="POST"),
        lambda: faults.server_error(1, status=503, method="GET"),
        lambda: faults.drop(2, method="POST"),
        lambda: faults.drop(1, method="DELETE"),
        lambda: faults.conflict(1, method="DELETE"),
    ]
    for trouble in troubles:
        trouble()
        job = jobs.submit("true")
        jobs.until(job, JobStatus.COMPLETED)
        jobs.backend.cleanup(job.id)
        faults.clear()


def test_a_server_that_asks_for_much_time_is_left_alone(jobs: BackendHarness, cluster: ApiServer) -> None:
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    cluster.faults.too_many_requests(1, retry_after=3600, method="POST")
    with pytest.raises(BackendUnavailable, match="too many requests"):
        jobs.submit("true")


@pytest.mark.parametrize("how", ["event", "http"])
def test_a_watch_that_has_expired_begins_anew(jobs: BackendHarness, cluster: ApiServer, how: str) -> None:
    job, gate = gated(jobs)
    watching(jobs)
    cluster.faults.expire_watches(how, 2)
    cluster.faults.close_watches()
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)
    wait_until(lambda: view_of(jobs).watched, 20, "the watches to stand again")


def test_history_is_forgotten(jobs: BackendHarness, cluster: ApiServer) -> None:
    job, gate = gated(jobs)
    watching(jobs)
    cluster.faults.forget_history()
    cluster.faults.close_watches()
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)
    wait_until(lambda: view_of(jobs).watched, 20, "the watches to stand again")


def test_tokens_expire(own_cluster: ApiServer, jobs_on: Jobs) -> None:
    jobs = jobs_on()
    job, gate = gated(jobs)
    own_cluster.faults.expire_tokens(renew=True)
    own_cluster.faults.close_watches()
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)
    own_cluster.faults.expire_tokens(renew=False)
    with pytest.raises(BackendUnavailable, match="credentials"):
        jobs.submit("true")
    own_cluster.faults.expire_tokens(renew=True)
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)


def test_rights_that_are_missing_are_named(own_cluster: ApiServer, jobs_on: Jobs) -> None:
    jobs = jobs_on()
    own_cluster.faults.forbid("create", "jobs")
    with pytest.raises(BackendUnavailable, match="cannot create resource"):
        jobs.submit("true")
    own_cluster.faults.clear()
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)


WEBHOOK = 'admission webhook "validation.gatekeeper.sh" denied the request: [repos] an image of another registry'
QUOTA = 'jobs.batch "ccat-1" is forbidden: exceeded quota: few, requested: count/jobs.batch=1, used: 3, limited: 3'


@pytest.mark.parametrize(("words", "meaning"), [(WEBHOOK, BackendRejected), (QUOTA, JobDeferred)])
def test_what_one_job_is_denied_is_no_trouble_of_the_others(
    jobs: BackendHarness, cluster: ApiServer, words: str, meaning: type[BackendError]
) -> None:
    cluster.faults.deny(words)
    results = jobs.submit_all([jobs.request("true") for _ in range(12)])
    [refused] = [each for each in results if not isinstance(each, Job)]
    assert type(refused) is meaning
    assert words in refused.message
    for each in results:
        if isinstance(each, Job):
            jobs.until(each, JobStatus.COMPLETED)


def test_a_quota_that_is_being_counted_is_asked_again(jobs: BackendHarness, cluster: ApiServer) -> None:
    cluster.faults.conflict(2, method="POST")
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    cluster.faults.conflict(None, method="POST")
    with pytest.raises(JobDeferred, match="cannot be fulfilled"):
        jobs.submit("true")
    cluster.faults.clear()
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)


def test_a_namespace_that_is_not_there(cluster: ApiServer, jobs_on: Jobs) -> None:
    with pytest.raises(BackendUnavailable, match='"nowhere" not found'):
        jobs_on(namespace="nowhere").submit("true")


def test_the_rights_of_the_manifest_are_enough(tmp_path: Path, jobs_on: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "rbac.yaml").read_text())
    [rules] = [each["rules"] for each in documents if each["kind"] == "Role"]
    with ApiServer(tmp_path / "cluster", images=IMAGES, rules=rules, clock_scale=4) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        jobs = jobs_on(request_seconds=2)
        job, gate = gated(jobs)
        assert job.id in [each.job_id for each in jobs.backend.list_jobs()]
        assert jobs.backend.find(job.request.job_name) == job.id
        watching(jobs)
        jobs.backend.get_resource_usage(job.id)
        gate.touch()
        jobs.until(job, JobStatus.COMPLETED)
        jobs.backend.cleanup(job.id)
        stopped, _ = gated(jobs)
        jobs.backend.cancel(stopped.id)
        jobs.until(stopped, JobStatus.CANCELLED)
        jobs.close()


def test_a_status_costs_no_call_while_watched(jobs: BackendHarness) -> None:
    requests = [jobs.request("true") for _ in range(20)]
    ids = [each.id for each in jobs.submit_all(requests) if isinstance(each, Job)]
    jobs.poll(lambda: all(i.finished for i in jobs.backend.get_statuses(ids).values()), "all jobs to end", 60)
    watching(jobs)
    before = backend_of(jobs)._calls.requests
    for _ in range(50):
        jobs.backend.get_statuses(ids)
    assert backend_of(jobs)._calls.requests - before <= 2  # a watch may have come of age


def test_many_pages(own_cluster: ApiServer, jobs_on: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_PAGE", 3)
    jobs = jobs_on(watch=False)
    requests = [jobs.request("true") for _ in range(10)]
    submitted = [each for each in jobs.submit_all(requests) if isinstance(each, Job)]
    ids = [each.id for each in submitted]
    looker = jobs_on(watch=False)
    looker.poll(lambda: all(i.finished for i in looker.backend.get_statuses(ids).values()), "all jobs to end", 60)


# --- pods and nodes in trouble ----------------------------------------------------------------------------------------


def test_evicted(jobs: BackendHarness, cluster: ApiServer) -> None:
    job, _ = gated(jobs)
    cluster.faults.evict(pod_of(job))
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.PREEMPTED
    assert "memory" in str(info.message)


def test_a_pod_is_deleted_by_hand(jobs: BackendHarness) -> None:
    job, _ = gated(jobs)
    apis()[0].delete_namespaced_pod(pod_of(job), "default")
    assert jobs.until(job, JobStatus.FAILED).reason is FailureReason.STOPPED_OUTSIDE


def test_a_job_is_deleted_by_hand(jobs: BackendHarness) -> None:
    job, _ = gated(jobs)
    apis()[1].delete_namespaced_job(name_of(job), "default", propagation_policy="Background")
    assert jobs.until(job, JobStatus.FAILED).reason is FailureReason.STOPPED_OUTSIDE


def test_a_job_that_writes_too_much_log_is_stopped(
    cluster: ApiServer, jobs_on: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "_EVERY_SECONDS", 0.1)
    jobs = jobs_on(log_limit_mb=1)
    job = jobs.submit("/bin/sh", "-c", "head -c 3000000 /dev/zero; exec sleep 1000")
    info = jobs.until(job, JobStatus.FAILED)
    assert (info.reason, info.message) == (
        FailureReason.LOG_LIMIT,
        "the program wrote 3 MB of log; LOG_LIMIT_MB allows 1",
    )


def test_a_job_is_orphaned_by_hand(jobs: BackendHarness) -> None:
    job, gate = gated(jobs)
    apis()[1].delete_namespaced_job(name_of(job), "default", propagation_policy="Orphan")
    looker = jobs.create()
    wait_until(lambda: "its Job is gone" in str(looker.get_status(job.id).message), 10, "the news")
    assert job.id in [each.job_id for each in looker.list_jobs()]
    looker.close()
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)


def test_a_node_is_removed(own_cluster: ApiServer, jobs_on: Jobs) -> None:
    jobs = jobs_on()
    job, _ = gated(jobs)
    # Of a pod that has gone before anybody could see it, only that it was disrupted is known.
    watching(jobs)
    node = str(jobs.backend.get_status(job.id).node)
    own_cluster.faults.remove_node(node)
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.NODE_FAILURE, info


def test_a_second_pod_of_a_job_does_nothing(tmp_path: Path, jobs_on: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old server starts one while the first, on a node that is lost, is still running."""
    nodes = (Node("n1", cpu="4"), Node("n2", cpu="4"))
    with ApiServer(tmp_path / "c", images=IMAGES, nodes=nodes, version="1.20", clock_scale=50) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        jobs = jobs_on(margin_seconds=36_000)
        starts, gate = tmp_path / "starts", tmp_path / "go"
        job = jobs.submit("/bin/sh", "-c", f'echo once >> "$2"; {GATE}', "sh", str(gate), str(starts))
        node = str(jobs.until(job, JobStatus.RUNNING).node)
        wait_until(starts.exists, 10, "the first pod to begin")
        server.faults.lose_node(node)
        wait_until(lambda: jobs.backend.get_status(job.id).finished, 60, "the verdict")
        info = jobs.backend.get_status(job.id)
        assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.NODE_FAILURE), info
        gate.touch()
        server.faults.return_node(node)
        assert starts.read_text() == "once\n"
        jobs.close()


def test_out_of_memory_of_a_child(jobs: BackendHarness) -> None:
    """The shell of the pod goes on; the control group knows."""
    hog = "b = bytearray(400 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    command = ["/bin/sh", "-c", '"$@" & wait $!; exit 9', "sh", jobs.python, "-I", "-c", hog]
    job = jobs.submit(*command, resources=replace(jobs.resources, memory_gb=0.125))
    assert jobs.until(job, JobStatus.FAILED).reason is FailureReason.OUT_OF_MEMORY


def test_peak_memory_is_counted(jobs: BackendHarness) -> None:
    fill = "b = bytearray(60 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    info = jobs.until(jobs.submit(jobs.python, "-I", "-c", fill), JobStatus.COMPLETED)
    assert info.peak_memory_gb is not None
    assert 0.06 <= info.peak_memory_gb < 0.25


def test_resources_of_a_step_choose_the_node(tmp_path: Path, jobs_on: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    tainted = ({"key": "gpu", "effect": "NoSchedule"},)
    nodes = (Node("plain"), Node("fast", extended={"nvidia.com/gpu": "2"}, labels={"disk": "ssd"}, taints=tainted))
    with ApiServer(tmp_path / "cluster", images=IMAGES, nodes=nodes, clock_scale=4) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        jobs = jobs_on()
        extra = {"node_selector": {"disk": "ssd"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
        job = jobs.submit("true", resources=Resources(cpu=1, memory_gb=0.25, gpu=1, extra=extra))
        assert jobs.until(job, JobStatus.COMPLETED).node == "fast"
        assert jobs.until(jobs.submit("true"), JobStatus.COMPLETED).node == "plain"
        jobs.close()


def test_a_volume_that_is_not_there(cluster: ApiServer, jobs_on: Jobs, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    jobs = jobs_on(volume=f"hostpath:{tmp_path / 'empty'}")
    job = jobs.submit("true")
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.CONTAINER_FAILED
    assert ".sh" in str(info.message), info
    assert ".sh" in jobs.backend.get_logs(job.id)


def test_a_claim_of_a_volume_and_a_part_of_it(tmp_path: Path, jobs_on: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers see the directory `tmp_path`; in the claim of pods it is called `deep/down`."""
    claim = tmp_path.parent / f"{tmp_path.name}-claim"
    (claim / "deep").mkdir(parents=True)
    (claim / "deep" / "down").symlink_to(tmp_path)
    with ApiServer(tmp_path / "cluster", images=IMAGES, claims={"data": claim}) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        jobs = jobs_on(volume="pvc:data/deep/down")
        jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
        jobs.close()


# --- who, where -------------------------------------------------------------------------------------------------------


def test_context_and_namespace(tmp_path: Path, jobs_on: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with ApiServer(tmp_path / "cluster", images=IMAGES, namespaces=("default", "other")) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        contexts = [each["name"] for each in yaml.safe_load(server.kubeconfig.read_text())["contexts"]]
        jobs = jobs_on(context=contexts[1], namespace="other")
        job = jobs.submit("true")
        assert job.id.startswith("other/")
        jobs.until(job, JobStatus.COMPLETED)
        # Who looks elsewhere by now still follows it.
        assert jobs_on(namespace="default").backend.get_status(job.id).status is JobStatus.COMPLETED
        with pytest.raises(BackendUnavailable, match="cannot be used"):
            jobs_on(context="no-such-context").submit("true")
        jobs.close()


def test_available_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv(calls.IN_CLUSTER, raising=False)
    found = KubernetesBackend.is_available()
    assert not found.available
    assert "KUBECONFIG" in found.installation_hint
    with pytest.raises(registry.UnusableBackend, match="no kubeconfig"):
        registry.create("kubernetes", pipeline_base_dir=str(tmp_path), launcher_image="x")
    monkeypatch.setattr(calls, "TOKEN_FILE", tmp_path / "token")
    monkeypatch.setenv(calls.IN_CLUSTER, "10.0.0.1")
    assert not KubernetesBackend.is_available().available
    (tmp_path / "token").write_text("secret")
    assert KubernetesBackend.is_available().available
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text("{}")
    monkeypatch.delenv(calls.IN_CLUSTER)
    assert KubernetesBackend.is_available().available


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = KubernetesBackend.is_available()
    assert (found.available, found.installation_hint) == (False, "pip install 'ccat-workflow-manager[kubernetes]'")


def test_queue_status(jobs: BackendHarness) -> None:
    job, gate = gated(jobs)
    queue = jobs.poll(lambda: next((each for each in jobs.backend.queue_status() if each.running), None), "the count")
    assert (queue.name, queue.running) == ("default", 1)
    assert queue.details["version"] == "1.37"
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)


def test_backend_check_on_a_cluster(cluster: ApiServer, tmp_path: Path) -> None:
    ours = {
        "PIPELINE_BASE_DIR": str(tmp_path),
        "KUBERNETES_LAUNCHER_IMAGE": "launcher:1",
        "KUBERNETES_NAMESPACE": "default",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CCAT_")}
    clauses = [f"--clause={name}" for name in ("exit_3_is_failed", "cancel_running", "find_by_name")]
    done = subprocess.run(
        [PROGRAM, "backend", "check", "kubernetes", "--json", *clauses],
        env={**environment, **{f"CCAT_WORKFLOW_MANAGER_{name}": value for name, value in ours.items()}},
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [each["outcome"] for each in json.loads(done.stdout)] == ["passed"] * 3
    assert os.listdir(tmp_path / ".kubernetes") == []


# --- pure -------------------------------------------------------------------------------------------------------------


def test_retry_after() -> None:
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    for headers in ({}, {"Retry-After": ""}, {"Retry-After": "soon"}):
        assert retry_after(headers) is None


def test_metrics() -> None:
    assert [quantity(text) for text in ("1", "250m", "128Mi", "1e3", "5n")] == [1, 0.25, 2**27, 1000, 5e-9]
    usage = usage_of({"containers": [{"name": "side", "usage": {}}, {"name": "step", "usage": {"memory": "512Mi"}}]})
    assert usage is not None
    assert usage.memory_gb == 0.5
    assert usage_of({"containers": []}) is None
    for data in ({}, {"containers": [{"name": "step", "usage": {"memory": "much"}}]}):
        with pytest.raises(BackendConfused):
            usage_of(data)
