"""A deployment that works with the private cluster."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backends.slurm.cluster import Cluster
from tests.backends.slurm.shims import noting_calls
from tests.support.fixtures_service import Service, ServiceMaker, running_service
from tests.support.reaper import Reaper

SlurmService = Callable[..., Service]


def settings(cluster: Cluster) -> dict[str, str]:
    return {
        "HPC_BACKEND": "slurm",
        "SLURM_CONF": str(cluster.conf),
        "SLURM_CALLS_PER_MINUTE": "2000",
        "FOLLOW_SECONDS": "1",
    }


@pytest.fixture(scope="session")
def noted_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of programs which note in the file `calls` beside them what the deployment asks of Slurm."""
    directory = tmp_path_factory.mktemp("noting") / "programs"
    noting_calls(directory)
    return directory


@pytest.fixture
def slurm_calls(noted_calls: Path) -> Callable[[], Counter[str]]:
    """How often the deployment has called each program since the test began."""
    file = noted_calls.with_name("calls")
    before = Counter(file.read_text().split()) if file.exists() else Counter()
    return lambda: Counter(file.read_text().split()) - before


@pytest.fixture(scope="package")
def slurm_service(reaper: Reaper, slurm_cluster: Cluster, noted_calls: Path) -> Iterator[Service]:
    """One deployment for all tests that break neither it nor the cluster."""
    environment = {"PATH": f"{noted_calls}:{os.environ['PATH']}"}
    with running_service(reaper, environment, **settings(slurm_cluster)) as service:
        yield service


@pytest.fixture
def make_slurm_service(make_service: ServiceMaker, slurm_cluster: Cluster) -> SlurmService:
    """Deployments to be broken."""
    return lambda **more: make_service(**settings(slurm_cluster), **more)


@pytest.fixture(autouse=True)
def _cluster_is_whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test has broken is mended, and what it left in the queue removed, before the next."""
    yield
    if "slurm_cluster" in request.fixturenames:
        cluster: Cluster = request.getfixturevalue("slurm_cluster")
        cluster.start()
        cluster.drop_all()
