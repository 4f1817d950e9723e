"""The Dask backend keeps the whole contract: at the scheduler of a site, and on the cluster of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import distributed
import pytest

from ccat_workflow_manager.hpc.dask.backend import DaskBackend
from ccat_workflow_manager.hpc.dask.client import SchedulerClient
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Job
from tests.backends.dask.cluster import DaskCluster
from tests.backends.dask.own import end_own_cluster
from tests.support.reaper import Reaper

FACTORY = "ccat_workflow_manager.hpc.dask.backend:DaskBackend"


class DaskHarness(BackendHarness):
    """The service of this backend is a scheduler."""

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        """The scheduler itself is made to talk nonsense."""
        backend = self.backend
        assert isinstance(backend, DaskBackend)
        client = dask_client(backend)
        client.run_on_scheduler(_babble)
        try:
            yield
        finally:
            client.run_on_scheduler(_talk_sense)

    @contextmanager
    def count_status_calls(self) -> Iterator[Callable[[], int]]:
        calls = 0
        ask = SchedulerClient.ask

        def counted(self: SchedulerClient, method: str, **arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            return ask(self, method, **arguments)

        with mock.patch.object(SchedulerClient, "ask", counted):
            yield lambda: calls


def dask_client(backend: DaskBackend) -> distributed.Client:
    """The connection of a backend to its scheduler."""
    return backend._client._connected()


_BABBLE = """
def babble(dask_scheduler=None):
    dask_scheduler.sense = dask_scheduler.handlers["identity"]
    dask_scheduler.handlers["identity"] = lambda *args, **kwargs: "out to lunch"

def talk_sense(dask_scheduler=None):
    dask_scheduler.handlers["identity"] = dask_scheduler.sense
"""
_namespace: dict[str, Any] = {"__name__": "not_to_be_imported"}
exec(_BABBLE, _namespace)
_babble, _talk_sense = _namespace["babble"], _namespace["talk_sense"]


@dataclass
class SiteHarness(DaskHarness):
    """The scheduler is somebody else's."""

    cluster: DaskCluster | None = None

    @contextmanager
    def service_down(self) -> Iterator[None]:
        """The scheduler is gone; afterwards there is another one at the same address."""
        assert self.cluster is not None
        self.cluster.close_processes()
        try:
            yield
        finally:
            self.cluster.start()


def dask_harness(workdir: Path, cluster: DaskCluster | None, state_dir: Path) -> DaskHarness:
    config: dict[str, Any] = {"state_dir": str(state_dir), "kill_grace_seconds": 0.3}
    harness: DaskHarness
    if cluster is not None:
        config |= {"scheduler_address": cluster.address, "resources": "cpu, memory_gb"}
        create = partial(DaskBackend, **config)
        harness = SiteHarness(create=create, workdir=workdir, factory=FACTORY, config=config, cluster=cluster)
    else:
        config |= {"idle_seconds": 30}
        harness = DaskHarness(create=partial(DaskBackend, **config), workdir=workdir, factory=FACTORY, config=config)
    ordinary = harness.resources
    harness.refused = [
        replace(ordinary, partition="science"),
        replace(ordinary, account="ccat"),
        replace(ordinary, extra={"resources": {"scratch": "much"}}),
        replace(ordinary, extra={"resources": {"cpu": 1}}),
        replace(ordinary, extra={"workers": "all"}),
    ]
    if cluster is None:
        harness.refused = [*harness.refused, replace(ordinary, cpu=1000), replace(ordinary, memory_gb=100_000)]
    return harness


class TestAtTheSchedulerOfASite(BackendContract):
    not_claimed = frozenset({"ends_are_notified"})
    cluster: ClassVar[DaskCluster]

    @pytest.fixture(autouse=True)
    def _at_cluster(self, dask_cluster: DaskCluster) -> None:
        type(self).cluster = dask_cluster

    def make_harness(self, workdir: Path) -> BackendHarness:
        return dask_harness(workdir, self.cluster, workdir / "state")


@pytest.mark.slow
class TestOnAClusterOfItsOwn(BackendContract):
    not_claimed = frozenset({"ends_are_notified", "service_down_is_unavailable"})
    state_dir: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _in_directory(self, own_state_dir: Path) -> None:
        type(self).state_dir = own_state_dir

    def make_harness(self, workdir: Path) -> BackendHarness:
        return dask_harness(workdir, None, self.state_dir)


@pytest.fixture(scope="module")
def own_state_dir(reaper: Reaper) -> Iterator[Path]:
    """One cluster of its own for all clauses."""
    directory = Path(tempfile.mkdtemp(prefix="ccat-wm-dask-own-"))
    reaper.remove(directory)
    yield directory
    end_own_cluster(directory)
    shutil.rmtree(directory)
