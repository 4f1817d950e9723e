"""HTTPS, and the service account of a pod."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from ccat_workflow_manager.core.errors import BackendUnavailable
from ccat_workflow_manager.core.jobs import JobStatus
from ccat_workflow_manager.hpc.kubernetes import calls
from ccat_workflow_manager.hpc.kubernetes.backend import KubernetesBackend
from ccat_workflow_manager.testing.harness import BackendHarness
from ccat_workflow_manager.testing.kubernetes_stand_in import ApiServer
from tests.kubernetes.certificates import loopback_certificate
from tests.kubernetes.conftest import IMAGES
from tests.waiting import wait_until


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path / "cluster", images=IMAGES, tls=loopback_certificate(tmp_path), clock_scale=4) as server:
        yield server


def harness(tmp_path: Path) -> BackendHarness:
    def create() -> KubernetesBackend:
        return KubernetesBackend(
            pipeline_base_dir=str(tmp_path), launcher_image="launcher:1", poll_seconds=0.2, request_seconds=5
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


def test_in_a_cluster(secure: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service account of the pod: address from the environment, token and authority from files."""
    host, _, port = secure.url.partition("://")[2].partition(":")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port.rstrip("/"))
    monkeypatch.setattr(calls, "TOKEN_FILE", secure.token_file)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(secure.token_file))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "server.crt"))
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
