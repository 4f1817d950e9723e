"""A deployment that works with the private cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.fixtures_service import Service, ServiceMaker, _make
from tests.reaper import Reaper
from tests.slurm.cluster import Cluster

SlurmService = Callable[..., Service]


def settings(cluster: Cluster) -> dict[str, str]:
    return {
        "HPC_BACKEND": "slurm",
        "SLURM_CONF": str(cluster.conf),
        "SLURM_CALLS_PER_MINUTE": "2000",
        "FOLLOW_SECONDS": "1",
    }


@pytest.fixture(scope="session")
def slurm_service(reaper: Reaper, slurm_cluster: Cluster) -> Iterator[Service]:
    """One deployment for all tests that break neither it nor the cluster."""
    service = _make(reaper, **settings(slurm_cluster))
    yield service
    service.close()


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
