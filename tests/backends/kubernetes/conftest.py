"""Stand-in clusters for the tests of the backend, and deployments that work with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.backends.kubernetes.harness import IMAGES, KubernetesHarness, kubernetes_harness
from tests.stand_ins.kubernetes import ApiServer, Node
from tests.support.canary import CANARY, VALUE
from tests.support.fixtures_service import Service, running_service
from tests.support.reaper import Reaper

NewCluster: TypeAlias = Callable[..., ApiServer]
JobsOn: TypeAlias = Callable[..., KubernetesHarness]


def settings(**more: str) -> dict[str, str]:
    return {
        "HPC_BACKEND": "kubernetes",
        "KUBERNETES_NAMESPACE": "default",
        "KUBERNETES_LAUNCHER_IMAGE": "launcher:1",
        "KUBERNETES_IMAGE_GRACE_SECONDS": "2",
        "KUBERNETES_MARGIN_SECONDS": "1",
        **more,
    }


def nodes(cpu: str, memory: str) -> tuple[Node, Node]:
    return Node("n1", cpu=cpu, memory=memory), Node("n2", cpu=cpu, memory=memory)


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One cluster for all tests that do not break it."""
    directory = tmp_path_factory.mktemp("cluster")
    secrets = {"ccat-wm-secrets-default": {CANARY: VALUE}}
    with ApiServer(directory, images=IMAGES, nodes=nodes("16", "64Gi"), clock_scale=4, secrets=secrets) as server:
        yield server


@pytest.fixture
def cluster(shared_cluster: ApiServer, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    """The shared one, in KUBECONFIG."""
    monkeypatch.setenv("KUBECONFIG", str(shared_cluster.kubeconfig))
    return shared_cluster


@pytest.fixture
def new_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewCluster]:
    """Starts a cluster of this test, and puts it into KUBECONFIG."""
    with ExitStack() as stack:

        def start(**more: Any) -> ApiServer:
            server = ApiServer(tmp_path / "cluster", images=IMAGES, **{"clock_scale": 4, **more})
            stack.enter_context(server)
            monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
            return server

        yield start


@pytest.fixture
def own_cluster(new_cluster: NewCluster) -> ApiServer:
    """A cluster to be broken."""
    return new_cluster(nodes=nodes("4", "8Gi"), clock_scale=10)


@pytest.fixture
def jobs_on(tmp_path: Path, new_cluster: NewCluster) -> Iterator[JobsOn]:
    """Makes backends with their jobs, which end before the clusters of `new_cluster`."""
    numbers = count()
    with ExitStack() as stack:

        def make(server: ApiServer, **more: Any) -> KubernetesHarness:
            general = {"pipeline_base_dir": str(tmp_path), "poll_seconds": 0.2, "margin_seconds": 60}
            workdir = tmp_path / f"work-{next(numbers)}"
            harness = kubernetes_harness(server, workdir, **{**general, "request_seconds": 5, **more})
            stack.callback(harness.close)
            return harness

        yield make


@pytest.fixture
def jobs(cluster: ApiServer, jobs_on: JobsOn) -> KubernetesHarness:
    return jobs_on(cluster)


@pytest.fixture(scope="package")
def kubernetes_service(reaper: Reaper, shared_cluster: ApiServer) -> Iterator[Service]:
    """One deployment for all tests that do not break it."""
    with running_service(reaper, {"KUBECONFIG": str(shared_cluster.kubeconfig)}, **settings()) as service:
        yield service


@pytest.fixture(scope="package")
def native_service(reaper: Reaper, shared_cluster: ApiServer) -> Iterator[Service]:
    """One whose pods run the images of the steps."""
    own = settings(KUBERNETES_MODE="native")
    with running_service(reaper, {"KUBECONFIG": str(shared_cluster.kubeconfig)}, **own) as service:
        yield service
