"""How the backend finds its cluster and who it is there: kubeconfig, contexts, tokens, the service account of a pod."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from kubernetes.config import incluster_config

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.kubernetes import client
from ccat_workflow_manager.hpc.kubernetes.backend import KubernetesBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from tests.backends.kubernetes.conftest import JobsOn, NewCluster
from tests.backends.kubernetes.harness import KubernetesHarness
from tests.stand_ins.kubernetes import ApiServer
from tests.support.certificates import loopback_certificate
from tests.support.fixtures_service import PROGRAM
from tests.support.waiting import PATIENCE

# --- kubeconfig -------------------------------------------------------------------------------------------------------


def test_context_and_namespace(new_cluster: NewCluster, jobs_on: JobsOn) -> None:
    server = new_cluster(namespaces=("default", "other"))
    contexts = [each["name"] for each in yaml.safe_load(server.kubeconfig.read_text())["contexts"]]
    job = jobs_on(server, context=contexts[1], namespace="other").complete()
    assert job.id.startswith("other/")
    # A backend of another namespace still follows it.
    assert jobs_on(server, namespace="default").backend.get_status(job.id).status is JobStatus.COMPLETED
    with pytest.raises(BackendUnavailable, match="cannot be used"):
        jobs_on(server, context="no-such-context").submit("true")


def use_kubeconfig(patch: pytest.MonkeyPatch, path: Path, server: ApiServer, user: dict[str, str]) -> None:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(content))
    patch.setenv("KUBECONFIG", str(path))


def test_a_file_of_a_token_may_end_with_a_line_break(
    own_cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(f"{own_cluster.token_file.read_text().strip()}\n")
    use_kubeconfig(monkeypatch, tmp_path / "config", own_cluster, {"tokenFile": str(token)})
    assert client.KubernetesClient(request_seconds=5).version() >= (1, 20)


@pytest.mark.parametrize("token", ["a\nb", "caf\u00e9", "\u0142"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    own_cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    use_kubeconfig(monkeypatch, tmp_path / "config", own_cluster, {"token": f"secret{token}"})
    with pytest.raises(BackendUnavailable, match="credentials") as caught:
        client.KubernetesClient(request_seconds=5).version()
    assert "secret" not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"


@pytest.mark.parametrize("text", ["clusters:\n- name: c\n  clu", "a: [", "\t", "3", "", "a: b\n---\na: b", "[x, [y]]"])
def test_a_kubeconfig_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(config))
    with pytest.raises(BackendUnavailable, match=f"{config} cannot be used"):
        client.KubernetesClient(request_seconds=5).version()


# --- the service account of a pod -------------------------------------------------------------------------------------


@pytest.fixture
def pod_cluster(new_cluster: NewCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    """A cluster with HTTPS, found as a pod finds its own: address in the environment, token and authority in files."""
    server = new_cluster(tls=loopback_certificate(tmp_path))
    host, _, port = server.url.partition("://")[2].partition(":")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setattr(client, "TOKEN_FILE", server.token_file)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(server.token_file))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "server.crt"))
    return server


def test_in_a_cluster(pod_cluster: ApiServer, jobs_on: JobsOn) -> None:
    assert KubernetesBackend.is_available().available
    jobs = jobs_on(pod_cluster)
    jobs.complete()
    pod_cluster.faults.expire_tokens(renew=True)
    jobs.complete()
    pod_cluster.faults.expire_tokens(renew=False)
    with pytest.raises(BackendUnavailable, match="credentials"):
        jobs.submit("true")
    pod_cluster.faults.expire_tokens(renew=True)
    jobs.complete()


def test_a_token_of_a_pod_that_is_being_written(pod_cluster: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official client reads it again by itself, in the middle of a request."""
    asking = client.KubernetesClient(request_seconds=5)
    monkeypatch.setattr(incluster_config.InClusterConfigLoader, "token_expires_at", _Passed(), raising=False)
    asking.list("Job", "default", "a=b")
    token = pod_cluster.token_file.read_text()
    pod_cluster.token_file.write_text("")
    with pytest.raises(BackendUnavailable, match="credentials"):
        asking.list("Job", "default", "a=b")
    pod_cluster.token_file.write_text(token)
    asking.list("Job", "default", "a=b")
    asking.close()


class _Passed:
    """A time that is always over, even when it was set to another one."""

    def __get__(self, instance: object, owner: type) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)

    def __set__(self, instance: object, value: datetime) -> None:
        pass


# --- whether it can be used here --------------------------------------------------------------------------------------


def test_available_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv(client.IN_CLUSTER, raising=False)
    found = KubernetesBackend.is_available()
    assert not found.available
    assert "KUBECONFIG" in found.installation_hint
    with pytest.raises(registry.UnusableBackend, match="no kubeconfig"):
        registry.create("kubernetes", pipeline_base_dir=str(tmp_path), launcher_image="x")
    monkeypatch.setattr(client, "TOKEN_FILE", tmp_path / "token")
    monkeypatch.setenv(client.IN_CLUSTER, "10.0.0.1")
    assert not KubernetesBackend.is_available().available
    (tmp_path / "token").write_text("secret")
    assert KubernetesBackend.is_available().available
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text("{}")
    monkeypatch.delenv(client.IN_CLUSTER)
    assert KubernetesBackend.is_available().available


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = KubernetesBackend.is_available()
    assert not found.available
    assert "[kubernetes]" in found.installation_hint


def test_queue_status(jobs: KubernetesHarness) -> None:
    job, gate = jobs.gated()
    queue = jobs.poll(lambda: each if (each := jobs.queue()).running else None, "the count")
    assert (queue.name, queue.running, queue.details["version"]) == ("default", 1, "1.37")
    gate.touch()
    jobs.until(job, JobStatus.COMPLETED)


def backend_check(directory: Path, *arguments: str, mode: str = "apptainer") -> subprocess.CompletedProcess[str]:
    ours = {
        "PIPELINE_BASE_DIR": str(directory),
        "KUBERNETES_MODE": mode,
        "KUBERNETES_LAUNCHER_IMAGE": "launcher:1",
        "KUBERNETES_NAMESPACE": "default",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CCAT_")}
    return subprocess.run(
        [PROGRAM, "backend", "check", "kubernetes", "--json", *arguments],
        env={**environment, **{f"CCAT_WORKFLOW_MANAGER_{name}": value for name, value in ours.items()}},
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


def test_backend_check_cannot_check_images(cluster: ApiServer, tmp_path: Path) -> None:
    done = backend_check(tmp_path, mode="native")
    assert done.returncode == 2, done.stderr
    assert "mode native" in done.stderr


def test_backend_check_on_a_cluster(cluster: ApiServer, tmp_path: Path) -> None:
    clauses = [f"--clause={name}" for name in ("exit_3_is_failed", "cancel_running", "find_by_name")]
    done = backend_check(tmp_path, f"--python={sys.executable}", *clauses)
    assert done.returncode == 0, done.stderr
    assert [each["outcome"] for each in json.loads(done.stdout)] == ["passed"] * 3
    assert os.listdir(tmp_path / ".kubernetes") == []
