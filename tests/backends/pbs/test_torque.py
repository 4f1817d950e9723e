"""The commands of Torque on the wire: Debian's wrappers around a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.hpc.pbs.backend import PbsBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness
from ccat_workflow_manager.testing.programs import sh
from tests.backends.slurm.cluster import Cluster

pytestmark = pytest.mark.needs("slurm")


@pytest.fixture
def jobs(
    slurm_cluster: Cluster, torque_wrappers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BackendHarness]:
    for name, value in {**torque_wrappers, "SLURM_CONF": str(slurm_cluster.conf)}.items():
        monkeypatch.setenv(name, value)
    config: dict[str, Any] = {"state_dir": str(tmp_path / "state"), "calls_per_minute": 100_000}
    harness = BackendHarness(create=partial(PbsBackend, **config), workdir=tmp_path, config=config)
    yield harness
    harness.close()


def test_ends_and_logs(jobs: BackendHarness) -> None:
    results = [jobs.submit(*sh(f"echo out; echo err >&2; exit {code}")) for code in (0, 3)]
    ends = [jobs.ended(job) for job in results]
    assert [(end.status, end.exit_code) for end in ends] == [(JobStatus.COMPLETED, 0), (JobStatus.FAILED, 3)]
    assert jobs.backend.get_logs(results[1].id) == "out\nerr\n"
    assert (results[1].attempt.root / f"{results[1].request.job_name}.scheduler.log").exists()


def test_found_and_stopped(jobs: BackendHarness) -> None:
    job = jobs.submit_endless()
    jobs.until(job, JobStatus.RUNNING)
    assert jobs.create().find(job.request.job_name) == job.id
    assert jobs.backend.find("ccat-nobody-1") is None
    jobs.backend.cancel(job.id)
    jobs.until(job, JobStatus.CANCELLED)
    jobs.backend.cancel(job.id)
    stranger = "999999:ccat-nobody-1"
    jobs.backend.cancel(stranger)
    assert jobs.backend.get_status(stranger).status is JobStatus.UNKNOWN


def test_refused(jobs: BackendHarness) -> None:
    with pytest.raises(BackendRejected, match="partition"):
        jobs.submit("true", resources=replace(jobs.resources, partition="nowhere"))


def test_queues(jobs: BackendHarness) -> None:
    assert {"main", "short"} <= {queue.name for queue in jobs.backend.queue_status() if queue.available}
