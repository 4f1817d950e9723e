"""What only the Kubernetes backend has to do with its jobs, and what it makes of pods and nodes in trouble."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc import log_watch
from ccat_workflow_manager.hpc.kubernetes import backend
from ccat_workflow_manager.hpc.kubernetes.backend import KubernetesJob, job_store
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.testing.harness import Job
from tests.backends.kubernetes.conftest import JobsOn, NewCluster, nodes
from tests.backends.kubernetes.harness import (
    GATE,
    KubernetesHarness,
    batch_api,
    core_api,
    delete_job,
    name_of,
    phases_of,
    pods_of,
)
from tests.stand_ins.kubernetes import ApiServer, Node
from tests.support.waiting import wait_for, wait_until

ONCE = ("/bin/sh", "-c", 'echo once >> "$1"', "sh")
FILL = "b = bytearray({} << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"


# --- one job for each attempt -----------------------------------------------------------------------------------------


def test_submitting_again_adopts(jobs: KubernetesHarness, tmp_path: Path) -> None:
    request = jobs.request(*ONCE, str(tmp_path / "starts"))
    first = jobs.submit_request(request)
    assert {jobs.submit_request(request).id for _ in range(3)} == {first.id}
    jobs.until(first, JobStatus.COMPLETED)
    assert jobs.submit_request(request).id == first.id
    assert (tmp_path / "starts").read_text() == "once\n"


def test_a_lost_answer_is_one_job(jobs: KubernetesHarness, cluster: ApiServer, tmp_path: Path) -> None:
    cluster.faults.lose_answer(1)
    jobs.complete(*ONCE, str(tmp_path / "starts"))
    assert (tmp_path / "starts").read_text() == "once\n"


def test_a_name_that_is_taken(jobs: KubernetesHarness) -> None:
    request = jobs.request("true")
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "launcher:1"}]}}
    body = {"metadata": {"name": request.job_name}, "spec": {"template": template, "suspend": True}}
    batch_api().create_namespaced_job("default", body)
    for act in (lambda: jobs.submit_request(request), lambda: jobs.backend.find(request.job_name)):
        with pytest.raises(BackendRejected, match="not ours"):
            act()
    batch_api().delete_namespaced_job(request.job_name, "default", propagation_policy="Background")


def test_a_job_that_is_submitted_after_its_end_does_not_run_again(jobs: KubernetesHarness, tmp_path: Path) -> None:
    """Its Job was removed, by TTL or by hand, before the end was recorded."""
    job = jobs.complete(*ONCE, str(tmp_path / "starts"))
    delete_job(job)
    other = jobs.create()
    assert wait_for(lambda: other.find(job.request.job_name) is None, 10)
    assert other.get_status(job.id).status is JobStatus.COMPLETED  # by its exit record
    other.close()
    jobs.backend.cleanup(job.id)
    jobs.until(jobs.submit_request(job.request), JobStatus.COMPLETED)
    assert (tmp_path / "starts").read_text() == "once\n"


def test_cancelled_before_it_begins_never_begins(own_cluster: ApiServer, jobs_on: JobsOn, tmp_path: Path) -> None:
    jobs = jobs_on(own_cluster)
    big = replace(jobs.resources, cpu=4)
    blockers = [jobs.submit("sleep", "1000", resources=big) for _ in range(2)]
    waiting = jobs.submit("touch", str(tmp_path / "started"), resources=big)
    jobs.poll(
        lambda: "Insufficient cpu" in (jobs.backend.get_status(waiting.id).message or ""), "the reason of the wait"
    )
    for job in (waiting, *blockers):
        jobs.backend.cancel(job.id)
        jobs.until(job, JobStatus.CANCELLED)
    # Even if another process submits it again.
    again = jobs.submit_request(waiting.request)
    assert jobs.create().get_status(again.id).status in (JobStatus.CANCELLED, JobStatus.PENDING, JobStatus.RUNNING)
    jobs.until(jobs.submit("true", resources=big), JobStatus.COMPLETED)
    assert not (tmp_path / "started").exists()


def test_nothing_is_left_after_cleanup(jobs: KubernetesHarness, tmp_path: Path) -> None:
    job = jobs.complete()
    jobs.backend.cleanup(job.id)
    wait_until(lambda: not pods_of(job), 20, "the pod to go")
    assert name_of(job) not in [each.metadata.name for each in batch_api().list_namespaced_job("default").items]
    assert not os.path.lexists(tmp_path / ".kubernetes" / name_of(job))
    assert jobs.backend.find(job.request.job_name) is None


def test_notes_of_jobs_that_were_not_cleaned_up_go(
    jobs: KubernetesHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = jobs.gated()
    notes = job_store(tmp_path)
    for name, submitted_at in (("old", 0.0), ("young", time.time()), (name_of(job), 0.0)):
        notes.put(name, KubernetesJob(name, "/nowhere", submitted_at))
    jobs.backend.list_jobs()
    assert {"old", "young", name_of(job)} <= set(notes.ids())
    monkeypatch.setattr(backend, "SWEEP_SECONDS", 0)
    jobs.backend.list_jobs()
    assert "old" not in notes.ids()
    assert {"young", name_of(job)} <= set(notes.ids())


# --- pods in trouble --------------------------------------------------------------------------------------------------


def test_evicted(jobs: KubernetesHarness, cluster: ApiServer) -> None:
    job, _ = jobs.gated()
    cluster.faults.evict(pods_of(job)[0])
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.PREEMPTED
    assert "memory" in str(info.message)


def test_over_its_time_limit_only_when_the_container_has_ended(
    new_cluster: NewCluster, jobs_on: JobsOn, tmp_path: Path
) -> None:
    """A kubelet of 1.20 sets DeadlineExceeded, and then has to wait for a program that ignores SIGTERM."""
    server = new_cluster(version="1.20", clock_scale=10)
    jobs = jobs_on(server, margin_seconds=1, kill_grace_seconds=6000)
    gate = tmp_path / "go"
    short = replace(jobs.resources, time_hours=1 / 120)
    job = jobs.submit(
        "/bin/sh", "-c", f"trap '' TERM; {GATE.replace('exit 0', 'exit 3')}", "sh", str(gate), resources=short
    )

    def late() -> bool:
        [pod] = core_api().list_namespaced_pod("default", label_selector=f"job-name={name_of(job)}").items
        ended = batch_api().read_namespaced_job(name_of(job), "default").status.conditions
        return (
            bool(ended) and pod.status.phase == "Failed" and pod.status.container_statuses[0].state.running is not None
        )

    wait_until(late, 20, "DeadlineExceeded of a pod whose container runs")
    jobs.begin_watching()
    assert jobs.backend.get_status(job.id).status is JobStatus.RUNNING
    assert job.id in [each.job_id for each in jobs.backend.list_jobs()]
    gate.touch()
    info = jobs.until(job, JobStatus.FAILED)
    assert (info.reason, info.exit_code) == (FailureReason.TIME_LIMIT, 3), info
    assert info.wall_time_seconds is not None


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("version", ["1.20", "1.37"])
def test_a_node_is_drained(new_cluster: NewCluster, jobs_on: JobsOn, version: str, watched: bool) -> None:
    # A look that finds the pod on its way out tells why: without a watch the pod needs to take some time.
    server = new_cluster(nodes=nodes("4", "8Gi"), version=version, clock_scale=10 if watched else 1)
    jobs = jobs_on(server, watch=watched, kill_grace_seconds=1 if watched else 10)
    job, _ = jobs.gated(stubborn=not watched)
    server.faults.drain(pods_of(job)[0])
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.PREEMPTED, info


def test_a_pod_is_deleted_by_hand(jobs: KubernetesHarness) -> None:
    job, _ = jobs.gated()
    core_api().delete_namespaced_pod(pods_of(job)[0], "default")
    assert jobs.until(job, JobStatus.FAILED).reason is FailureReason.STOPPED_OUTSIDE


def test_a_job_is_deleted_by_hand(jobs: KubernetesHarness) -> None:
    job, _ = jobs.gated()
    delete_job(job)
    assert jobs.until(job, JobStatus.FAILED).reason is FailureReason.STOPPED_OUTSIDE


def test_a_job_is_orphaned_by_hand(jobs: KubernetesHarness) -> None:
    job, gate = jobs.gated()
    delete_job(job, "Orphan")
    other = jobs.create()
    wait_until(lambda: "its Job is gone" in str(other.get_status(job.id).message), 10, "the news")
    assert job.id in [each.job_id for each in other.list_jobs()]
    other.close()
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)


def test_a_job_that_writes_too_much_log_is_stopped(
    cluster: ApiServer, jobs_on: JobsOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "_EVERY_SECONDS", 0.1)
    jobs = jobs_on(cluster, log_limit_mb=1)
    info = jobs.until(jobs.submit("/bin/sh", "-c", "head -c 3000000 /dev/zero; exec sleep 1000"), JobStatus.FAILED)
    assert info.reason is FailureReason.LOG_LIMIT
    assert "3 MB" in str(info.message)


def test_out_of_memory_of_a_child(jobs: KubernetesHarness) -> None:
    """The shell of the pod goes on; the control group knows."""
    small = replace(jobs.resources, memory_gb=0.125)
    fill = ("sh", jobs.python, "-I", "-c", FILL.format(400))
    failed = jobs.submit("/bin/sh", "-c", '"$@" & wait $!; exit 9', *fill, resources=small)
    passed = jobs.submit("/bin/sh", "-c", '"$@" & wait $!; exit 0', *fill, resources=small)
    assert jobs.until(failed, JobStatus.FAILED).reason is FailureReason.OUT_OF_MEMORY
    assert "memory" in str(jobs.until(passed, JobStatus.COMPLETED).warning)


def test_peak_memory_is_counted(jobs: KubernetesHarness) -> None:
    info = jobs.backend.get_status(jobs.complete(jobs.python, "-I", "-c", FILL.format(60)).id)
    assert info.peak_memory_gb is not None
    assert 0.06 <= info.peak_memory_gb < 0.25


# --- volumes and nodes ------------------------------------------------------------------------------------------------


def test_a_volume_that_is_not_there(cluster: ApiServer, jobs_on: JobsOn, tmp_path: Path) -> None:
    """The message of the shell is in the log of its container, of which a pod may have more."""
    (tmp_path / "empty").mkdir()
    side = "spec: {containers: [{name: side, image: 'launcher:1', command: ['true']}]}"
    jobs = jobs_on(cluster, volume=f"hostpath:{tmp_path / 'empty'}", pod_patch=side)
    job = jobs.submit("true")
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.CONTAINER_FAILED
    assert ".sh" in str(info.message), info
    assert ".sh" in jobs.backend.get_logs(job.id)


def test_a_claim_of_a_volume_and_a_part_of_it(new_cluster: NewCluster, jobs_on: JobsOn, tmp_path: Path) -> None:
    """Workers see the directory `tmp_path`; in the claim of pods it is called `deep/down`."""
    claim = tmp_path.parent / f"{tmp_path.name}-claim"
    (claim / "deep").mkdir(parents=True)
    (claim / "deep" / "down").symlink_to(tmp_path)
    jobs_on(new_cluster(claims={"data": claim}), volume="pvc:data/deep/down").complete()


def test_resources_of_a_step_choose_the_node(new_cluster: NewCluster, jobs_on: JobsOn) -> None:
    tainted = ({"key": "gpu", "effect": "NoSchedule"},)
    fast = Node("fast", extended={"nvidia.com/gpu": "2"}, labels={"disk": "ssd"}, taints=tainted)
    jobs = jobs_on(new_cluster(nodes=(Node("plain"), fast)), allowed_node_labels="disk", allowed_tolerations="gpu")
    extra = {"node_selector": {"disk": "ssd"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
    job = jobs.submit("true", resources=Resources(cpu=1, memory_gb=0.25, gpu=1, extra=extra))
    assert jobs.until(job, JobStatus.COMPLETED).node == "fast"
    assert jobs.backend.get_status(jobs.complete().id).node == "plain"


def test_a_node_is_removed(own_cluster: ApiServer, jobs_on: JobsOn) -> None:
    jobs = jobs_on(own_cluster)
    job, _ = jobs.gated()
    # Of a pod that has gone unseen, only that it was disrupted is known.
    jobs.begin_watching()
    own_cluster.faults.remove_node(str(jobs.backend.get_status(job.id).node))
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.NODE_FAILURE, info


def _on_silent_node(server: ApiServer, jobs: KubernetesHarness) -> Job:
    """A running job whose node n1 does not answer."""
    job, _ = jobs.gated()
    wait_until(lambda: phases_of(job) == ["Running"], 20, "the kubelet to report the container")
    server.faults.lose_node("n1")
    jobs.poll(lambda: "n1" in str(jobs.backend.get_status(job.id).message), "the node in the message", 60)
    return job


@pytest.mark.parametrize("watched", [True, False])
def test_a_silent_node_returns(new_cluster: NewCluster, jobs_on: JobsOn, watched: bool) -> None:
    server = new_cluster(nodes=(Node("n1"), Node("n2", cpu="0.1")), version="1.20", clock_scale=50)
    jobs = jobs_on(server, margin_seconds=36_000, watch=watched)
    job = _on_silent_node(server, jobs)
    wait_until(lambda: phases_of(job) == ["Running", "Pending"], 60, "a second pod, for which no node has room")
    info = jobs.backend.get_status(job.id)
    assert info.status is JobStatus.RUNNING
    assert "n1 does not answer" in str(info.message)
    server.faults.return_node("n1")
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason in (FailureReason.PREEMPTED, FailureReason.NODE_FAILURE), info


@pytest.mark.parametrize("watched", [True, False])
def test_a_silent_node_is_removed(new_cluster: NewCluster, jobs_on: JobsOn, watched: bool) -> None:
    server = new_cluster(nodes=(Node("n1"), Node("n2", cpu="2")), version="1.20", clock_scale=50)
    jobs = jobs_on(server, margin_seconds=36_000, watch=watched)
    job = _on_silent_node(server, jobs)
    server.faults.remove_node("n1")
    info = jobs.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.NODE_FAILURE, info


@pytest.mark.slow
def test_a_second_pod_of_a_job_does_nothing(new_cluster: NewCluster, jobs_on: JobsOn, tmp_path: Path) -> None:
    """An old server starts one while the first, on a node that is lost, is still running."""
    server = new_cluster(nodes=nodes("4", "1000Gi"), version="1.20", clock_scale=50)
    jobs = jobs_on(server, margin_seconds=36_000)
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
