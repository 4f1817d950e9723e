"""HTTPS, and the service account of a pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.kubernetes import calls
from ccat_workflow_manager.hpc.kubernetes.backend import KubernetesBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness
from tests.backends.kubernetes.certificates import loopback_certificate
from tests.backends.kubernetes.conftest import IMAGES
from tests.stand_ins.kubernetes import ApiServer
from tests.support.waiting import wait_until


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path / "cluster", images=IMAGES, tls=loopback_certificate(tmp_path), clock_scale=4) as server:
        yield server


def harness(tmp_path: Path) -> BackendHarness:
    def create() -> KubernetesBackend:
        return KubernetesBackend(
            pipeline_base_dir=str(tmp_path),
            namespace="default",
            launcher_image="launcher:1",
            poll_seconds=0.2,
            request_seconds=5,
        )

    return BackendHarness(create=create, workdir=tmp_path / "work")


def test_watches_over_https_are_cut_and_begun_anew(
    secure: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(secure.kubeconfig))
    jobs = harness(tmp_path)
    assert isinstance(jobs.backend, KubernetesBackend)
    view = jobs.backend._view("default")
    view.begin_watching()
    wait_until(lambda: view.watched, 10, "the watches to stand")
    for _ in range(3):
        view.refresh()  # cuts them
        wait_until(lambda: view.watched, 10, "the watches to stand again")
    secure.faults.close_watches()
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    jobs.close()


def as_in_a_pod(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, port = server.url.partition("://")[2].partition(":")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port.rstrip("/"))
    monkeypatch.setattr(calls, "TOKEN_FILE", server.token_file)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(server.token_file))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "server.crt"))


def test_in_a_cluster(secure: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service account of the pod: address from the environment, token and authority from files."""
    as_in_a_pod(secure, tmp_path, monkeypatch)
    assert KubernetesBackend.is_available().available
    jobs = harness(tmp_path)
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    secure.faults.expire_tokens(renew=True)
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    secure.faults.expire_tokens(renew=False)
    with pytest.raises(BackendUnavailable, match="credentials"):
        jobs.submit("true")
    secure.faults.expire_tokens(renew=True)
    jobs.close()


def kubeconfig(path: Path, server: ApiServer, user: dict[str, str]) -> str:
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": server.url}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return str(path)


def test_a_file_of_a_token_may_end_with_a_line_break(
    own_cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(f"{own_cluster.token_file.read_text().strip()}\n")
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", own_cluster, {"tokenFile": str(token)}))
    assert calls.Calls(request_seconds=5).version() >= (1, 20)


@pytest.mark.parametrize("token", ["a\nb", "caf\u00e9", "\u0142"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    own_cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", own_cluster, {"token": f"secret{token}"}))
    with pytest.raises(BackendUnavailable, match="credentials") as caught:
        calls.Calls(request_seconds=5).version()
    assert "secret" not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"


@pytest.mark.parametrize("text", ["clusters:\n- name: c\n  clu", "a: [", "\t", "3", "", "a: b\n---\na: b", "[x, [y]]"])
def test_a_kubeconfig_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(config))
    with pytest.raises(BackendUnavailable, match=f"{config} cannot be used"):
        calls.Calls(request_seconds=5).version()


def test_a_token_of_a_pod_that_is_being_written(
    secure: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official client reads it again by itself, in the middle of a request."""
    as_in_a_pod(secure, tmp_path, monkeypatch)
    asking = calls.Calls(request_seconds=5)
    monkeypatch.setattr(incluster_config.InClusterConfigLoader, "token_expires_at", _Passed(), raising=False)
    asking.list("Job", "default", "a=b")
    token = secure.token_file.read_text()
    secure.token_file.write_text("")
    with pytest.raises(BackendUnavailable, match="credentials"):
        asking.list("Job", "default", "a=b")
    secure.token_file.write_text(token)
    asking.list("Job", "default", "a=b")
    asking.close()


class _Passed:
    """A time that is always over, whatever it is set to."""

    def __get__(self, instance: object, owner: type) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)

    def __set__(self, instance: object, value: datetime) -> None:
        pass
