"""An API server that is busy, faulty, forgetful or strict, and what a call to it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ccat_workflow_manager.errors import (
    BackendConfused,
    BackendError,
    BackendRejected,
    BackendUnavailable,
    JobDeferred,
)
from ccat_workflow_manager.hpc.kubernetes import client
from ccat_workflow_manager.hpc.kubernetes.objects import usage_of
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import Job
from tests.backends.kubernetes.conftest import JobsOn, NewCluster
from tests.backends.kubernetes.harness import KubernetesHarness
from tests.stand_ins.kubernetes import ApiServer
from tests.support.certificates import loopback_certificate

ROOT = Path(__file__).parents[3]


def test_requests_are_repeated(jobs: KubernetesHarness, cluster: ApiServer) -> None:
    faults = cluster.faults
    troubles: list[Callable[[], None]] = [
        lambda: faults.too_many_requests(1, method="POST"),
        lambda: faults.too_many_requests(1, retry_after="soon", method="POST"),
        lambda: faults.server_error(2, status=500, method="POST"),
        lambda: faults.server_error(1, status=503, method="GET"),
        lambda: faults.drop(2, method="POST"),
        lambda: faults.drop(1, method="DELETE"),
        lambda: faults.conflict(1, method="DELETE"),
    ]
    for trouble in troubles:
        trouble()
        jobs.backend.cleanup(jobs.complete().id)
        faults.clear()


def test_a_server_that_asks_for_much_time_is_left_alone(jobs: KubernetesHarness, cluster: ApiServer) -> None:
    jobs.complete()
    cluster.faults.too_many_requests(1, retry_after=3600, method="POST")
    with pytest.raises(BackendUnavailable, match="too many requests"):
        jobs.submit("true")


def test_a_refusal_is_shown_though_its_time_cannot_be_read(jobs: KubernetesHarness, cluster: ApiServer) -> None:
    jobs.complete()
    cluster.faults.too_many_requests(None, retry_after="soon", method="POST")
    with pytest.raises(BackendUnavailable, match="too many requests"):
        jobs.submit("true")
    cluster.faults.clear()


def test_a_namespace_that_is_not_there(cluster: ApiServer, jobs_on: JobsOn) -> None:
    with pytest.raises(BackendUnavailable, match='"nowhere" not found'):
        jobs_on(cluster, namespace="nowhere").submit("true")


# --- watches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["event", "http", "history"])
def test_a_watch_that_has_expired_begins_anew(jobs: KubernetesHarness, cluster: ApiServer, how: str) -> None:
    job, gate = jobs.gated()
    jobs.begin_watching()
    if how == "history":
        cluster.faults.forget_history()
    else:
        cluster.faults.expire_watches(how, 2)
    cluster.faults.close_watches()
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)
    jobs.wait_for_watches()


def test_watches_over_https_are_cut_and_begin_anew(new_cluster: NewCluster, jobs_on: JobsOn, tmp_path: Path) -> None:
    server = new_cluster(tls=loopback_certificate(tmp_path))
    jobs = jobs_on(server)
    jobs.begin_watching()
    for number in range(3):
        # A job that is not known is looked for in a new list, which cuts the watches.
        assert jobs.backend.get_status(f"default/unknown-{number}").status is JobStatus.UNKNOWN
        jobs.wait_for_watches()
    server.faults.close_watches()
    jobs.complete()


def test_a_status_costs_no_call_while_watched(jobs: KubernetesHarness) -> None:
    requests = [jobs.request("true") for _ in range(20)]
    ids = [each.id for each in jobs.submit_all(requests) if isinstance(each, Job)]
    jobs.poll(lambda: all(i.finished for i in jobs.backend.get_statuses(ids).values()), "all jobs to end", 60)
    jobs.begin_watching()
    with jobs.count_status_calls() as count:
        for _ in range(50):
            jobs.backend.get_statuses(ids)
        assert count() == 0


def test_many_pages(own_cluster: ApiServer, jobs_on: JobsOn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 3)
    jobs = jobs_on(own_cluster, watch=False)
    ids = [each.id for each in jobs.submit_all([jobs.request("true") for _ in range(10)]) if isinstance(each, Job)]
    other = jobs_on(own_cluster, watch=False)
    other.poll(lambda: all(i.finished for i in other.backend.get_statuses(ids).values()), "all jobs to end", 60)


# --- what is not allowed ----------------------------------------------------------------------------------------------


def test_tokens_expire(own_cluster: ApiServer, jobs_on: JobsOn) -> None:
    jobs = jobs_on(own_cluster)
    job, gate = jobs.gated()
    own_cluster.faults.expire_tokens(renew=True)
    own_cluster.faults.close_watches()
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)
    own_cluster.faults.expire_tokens(renew=False)
    with pytest.raises(BackendUnavailable, match="credentials"):
        jobs.submit("true")
    own_cluster.faults.expire_tokens(renew=True)
    jobs.complete()


def test_rights_that_are_missing_are_named(own_cluster: ApiServer, jobs_on: JobsOn) -> None:
    jobs = jobs_on(own_cluster)
    own_cluster.faults.forbid("create", "jobs")
    with pytest.raises(BackendUnavailable, match="cannot create resource"):
        jobs.submit("true")
    own_cluster.faults.clear()
    jobs.complete()


def test_the_rights_of_the_manifest_are_enough(new_cluster: NewCluster, jobs_on: JobsOn) -> None:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "rbac.yaml").read_text())
    [rules] = [each["rules"] for each in documents if each["kind"] == "Role"]
    jobs = jobs_on(new_cluster(rules=rules), request_seconds=2)
    job, gate = jobs.gated()
    assert job.id in [each.job_id for each in jobs.backend.list_jobs()]
    assert jobs.backend.find(job.request.job_name) == job.id
    jobs.begin_watching()
    jobs.backend.get_resource_usage(job.id)
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)
    jobs.backend.cleanup(job.id)
    stopped, _ = jobs.gated()
    jobs.backend.cancel(stopped.id)
    jobs.until(stopped, JobStatus.CANCELLED)


WEBHOOK = 'admission webhook "validation.gatekeeper.sh" denied the request: [repos] an image of another registry'
QUOTA = 'jobs.batch "ccat-1" is forbidden: exceeded quota: few, requested: count/jobs.batch=1, used: 3, limited: 3'


@pytest.mark.parametrize(("words", "meaning"), [(WEBHOOK, BackendRejected), (QUOTA, JobDeferred)])
def test_one_job_that_is_denied_does_not_stop_the_others(
    jobs: KubernetesHarness, cluster: ApiServer, words: str, meaning: type[BackendError]
) -> None:
    cluster.faults.deny(words)
    results = jobs.submit_all([jobs.request("true") for _ in range(12)])
    [refused] = [each for each in results if not isinstance(each, Job)]
    assert type(refused) is meaning
    assert words in refused.message
    for each in results:
        if isinstance(each, Job):
            jobs.until(each, JobStatus.COMPLETED)


def test_a_quota_that_is_being_counted_is_asked_again(jobs: KubernetesHarness, cluster: ApiServer) -> None:
    cluster.faults.conflict(2, method="POST")
    jobs.complete()
    cluster.faults.conflict(None, method="POST")
    with pytest.raises(JobDeferred, match="cannot be fulfilled"):
        jobs.submit("true")
    cluster.faults.clear()
    jobs.complete()


# --- pure -------------------------------------------------------------------------------------------------------------


def test_metrics() -> None:
    usage = usage_of({"containers": [{"name": "side", "usage": {}}, {"name": "step", "usage": {"memory": "512Mi"}}]})
    assert usage is not None
    assert usage.memory_gb == 0.5
    assert usage_of({"containers": []}) is None
    for data in ({}, {"containers": [{"name": "step", "usage": {"memory": "much"}}]}):
        with pytest.raises(BackendConfused):
            usage_of(data)
