"""One private Dask cluster for a file of tests: an idle one keeps a tenth of a core busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.dask.cluster import DaskCluster
from tests.support.reaper import Reaper


@pytest.fixture(scope="module")
def standing_dask_cluster(reaper: Reaper) -> Iterator[DaskCluster]:
    """For tests that break nothing."""
    cluster = DaskCluster(reaper)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def dask_cluster(standing_dask_cluster: DaskCluster) -> DaskCluster:
    """Whatever the test before has broken is whole again."""
    standing_dask_cluster.restart()
    return standing_dask_cluster
