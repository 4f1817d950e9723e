"""One private Slurm cluster per test process, started when a test first wants it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.slurm.cluster import Cluster
from tests.support.reaper import Reaper


@pytest.fixture(scope="session")
def slurm_cluster(reaper: Reaper) -> Iterator[Cluster]:
    cluster = Cluster(reaper)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
