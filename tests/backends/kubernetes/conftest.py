"""A stand-in cluster for the tests of the backend, and deployments that work with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand_ins.kubernetes import ApiServer, Image, Node
from tests.support.fixtures_service import Service, running_service
from tests.support.reaper import Reaper

IMAGES = {"launcher:1": Image(), "ccat/*": Image(root=Path("/"), environment={"OF_THE_IMAGE": "yes"})}


def settings(**more: str) -> dict[str, str]:
    return {
        "HPC_BACKEND": "kubernetes",
        "KUBERNETES_NAMESPACE": "default",
        "KUBERNETES_LAUNCHER_IMAGE": "launcher:1",
        "KUBERNETES_IMAGE_GRACE_SECONDS": "2",
        "KUBERNETES_MARGIN_SECONDS": "1",
        **more,
    }


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One cluster for all tests that do not break it."""
    nodes = (Node("n1", cpu="16", memory="64Gi"), Node("n2", cpu="16", memory="64Gi"))
    with ApiServer(tmp_path_factory.mktemp("cluster"), images=IMAGES, nodes=nodes, clock_scale=4) as server:
        yield server


@pytest.fixture(autouse=True)
def _kubeconfig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests with a cluster see one."""
    for name in ("cluster", "own_cluster"):
        if name in request.fixturenames:
            monkeypatch.setenv("KUBECONFIG", str(request.getfixturevalue(name).kubeconfig))


@pytest.fixture(scope="session")
def kubernetes_service(reaper: Reaper, cluster: ApiServer) -> Iterator[Service]:
    """One deployment for all tests that do not break it."""
    with running_service(reaper, {"KUBECONFIG": str(cluster.kubeconfig)}, **settings()) as service:
        yield service


@pytest.fixture(scope="session")
def native_service(reaper: Reaper, cluster: ApiServer) -> Iterator[Service]:
    """One whose pods run the images of the steps."""
    own = settings(KUBERNETES_MODE="native")
    with running_service(reaper, {"KUBECONFIG": str(cluster.kubeconfig)}, **own) as service:
        yield service


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[ApiServer]:
    """A cluster to be broken."""
    nodes = (Node("n1", cpu="4", memory="8Gi"), Node("n2", cpu="4", memory="8Gi"))
    with ApiServer(tmp_path / "cluster", images=IMAGES, nodes=nodes, clock_scale=10) as server:
        yield server
