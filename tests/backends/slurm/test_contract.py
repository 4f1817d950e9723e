"""The Slurm backend keeps the whole contract on a real cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest

from ccat_workflow_manager.hpc.slurm.backend import SlurmBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Attempt, Job
from tests.backends.slurm.cluster import Cluster, cgroups

pytestmark = pytest.mark.needs("slurm")


@dataclass
class SlurmHarness(BackendHarness):
    """The service of this backend is a cluster."""

    cluster: Cluster | None = None

    def submit(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        resources: Resources | None = None,
        attempt: Attempt | None = None,
    ) -> Job:
        job = super().submit(*command, environment=environment, resources=resources, attempt=attempt)
        if resources is not None and resources.time_hours == self.shortest_time_hours:
            # Slurm counts in minutes and looks every half of one.
            assert self.cluster is not None
            self.until(job, JobStatus.RUNNING)
            self.cluster.end_time_limit(job.id.partition(":")[0])
        return job

    @contextmanager
    def service_down(self) -> Iterator[None]:
        """The backend's commands use the configuration of a controller that is not there."""
        assert self.cluster is not None
        absent = self.cluster.conf.with_name("nobody.conf")
        lines = [line for line in self.cluster.conf.read_text().splitlines() if not line.startswith("SlurmctldPort=")]
        absent.write_text("\n".join([*lines, "SlurmctldPort=1", "MessageTimeout=2"]))
        assert isinstance(self.backend, SlurmBackend)
        commands = self.backend._commands
        with mock.patch.object(commands, "_environment", {**commands._environment, "SLURM_CONF": str(absent)}):
            yield

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        """`squeue` is another program."""
        programs = self.workdir / "programs"
        programs.mkdir()
        (programs / "squeue").write_text("#!/bin/sh\necho '<html>out to lunch</html>'\n")
        (programs / "squeue").chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(programs), prepend=":")
            yield


def slurm_harness(cluster: Cluster, workdir: Path) -> SlurmHarness:
    """A backend of its own on the cluster."""
    config: dict[str, Any] = {
        "state_dir": str(workdir / "state"),
        "conf": str(cluster.conf),
        "calls_per_minute": 100_000,
        "poll_seconds": 0,
    }
    harness = SlurmHarness(
        create=partial(SlurmBackend, **config),
        workdir=workdir,
        factory="ccat_workflow_manager.hpc.slurm.backend:SlurmBackend",
        config=config,
        shortest_time_hours=1 / 60,
        jobs_run_here=cgroups(),
        cluster=cluster,
    )
    ordinary = harness.resources
    harness.refused = [
        replace(ordinary, partition="no-such-partition"),
        replace(ordinary, memory_gb=10_000_000),
        replace(ordinary, gpu=1),
        replace(ordinary, extra={"export": "ALL"}),
        replace(ordinary, extra={"qos": "two\nlines"}),
    ]
    return harness


class TestSlurm(BackendContract):
    not_claimed = frozenset({"ends_are_notified", *(() if cgroups() else ("cancel_kills_the_whole_tree",))})
    cluster: ClassVar[Cluster]

    @pytest.fixture(autouse=True)
    def _on_cluster(self, slurm_cluster: Cluster) -> None:
        type(self).cluster = slurm_cluster

    def make_harness(self, workdir: Path) -> BackendHarness:
        return slurm_harness(self.cluster, workdir)
