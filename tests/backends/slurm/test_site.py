"""What the backend does to a site, and what it shows of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.batch.refusals import LimitReached
from ccat_workflow_manager.hpc.slurm.backend import SlurmBackend
from ccat_workflow_manager.hpc.slurm.listing import QUEUED, parse_queued
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import Job
from tests.backends.slurm.cluster import Cluster
from tests.backends.slurm.shims import shim
from tests.backends.slurm.test_contract import SlurmHarness, slurm_harness
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.needs("slurm")


@pytest.fixture
def jobs(slurm_cluster: Cluster, tmp_path: Path) -> Iterator[SlurmHarness]:
    harness = slurm_harness(slurm_cluster, tmp_path)
    yield harness
    harness.close()


def test_the_calls_do_not_grow_with_the_jobs(jobs: SlurmHarness, slurm_cluster: Cluster) -> None:
    backend = jobs.backend
    calls = []
    for count in (10, 3000):
        number = slurm_cluster.ask(
            "sbatch", "--parsable", "--hold", "-J", "ccat-array-held", "-o", "/dev/null", f"--array=0-{count - 1}",
            "--wrap", "true",
        )  # fmt: skip
        ids = [f"{number}_{index}:ccat-held-{index}" for index in range(count)]
        with jobs.count_status_calls() as counted:
            infos = backend.get_statuses(ids)
            calls.append(counted())
        assert {info.status for info in infos.values()} == {JobStatus.PENDING}
        assert all("held at Slurm" in (info.message or "") for info in infos.values())
        slurm_cluster.ask("scancel", number)
    assert calls[1] <= calls[0] <= 2


def test_tasks_that_wait_are_cancelled_one_by_one(jobs: SlurmHarness, slurm_cluster: Cluster) -> None:
    """Slurm forgets them at once, and yet they are known to be cancelled; the others go on, until all are cancelled."""
    later = replace(jobs.resources, extra={"begin": "now+1hour"})
    taken = jobs.submit_all([jobs.request("true", resources=later) for _ in range(6)])
    ids = [job.id for job in taken if isinstance(job, Job)]
    assert len(ids) == 6
    jobs.backend.cancel_many(ids[1:3])
    slurm_cluster.ask("scancel", ids[4].partition(":")[0])
    statuses = [info.status for info in jobs.backend.get_statuses(ids).values()]
    assert [statuses[index] for index in (1, 2, 4)] == [JobStatus.CANCELLED] * 3
    assert [statuses[index] for index in (0, 3, 5)] == [JobStatus.PENDING] * 3
    jobs.backend.cancel_many(ids)
    assert {info.status for info in jobs.backend.get_statuses(ids).values()} == {JobStatus.CANCELLED}


def test_the_budget_is_kept(slurm_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of two workers at once, Slurm sees no more calls than were granted."""
    log = tmp_path / "calls"
    for program in ("squeue", "sacct", "sbatch", "scancel"):
        shim(tmp_path / "programs", program, f'echo {program} >> {log}; exec "$real" "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=":")
    monkeypatch.setattr("ccat_workflow_manager.hpc.batch.calls._LONGEST_WAIT_SECONDS", 0.0)
    workers = [
        SlurmBackend(conf=str(slurm_cluster.conf), state_dir=tmp_path / "state", calls_per_minute=12, poll_seconds=0)
        for _ in range(2)
    ]
    refused = 0
    for worker in workers * 20:
        try:
            worker.get_status("1:ccat-nobody")
        except BackendError as error:
            refused += "budget of 12 scheduler calls a minute" in error.message
    assert len(log.read_text().splitlines()) <= 12
    assert refused > 0


def test_partitions_and_budget_are_shown(jobs: SlurmHarness) -> None:
    queues = {queue.name: queue for queue in jobs.backend.queue_status()}
    assert set(queues) >= {"main", "short", "one", "low", "high"}
    main = queues["main"]
    assert main.available
    assert main.cpus_total == 16
    assert main.details["nodes"]["total"] == 4
    assert main.details["time_limit"] == "infinite"
    assert main.details["calls_per_minute"] == 100_000
    assert main.details["calls_in_the_last_minute"] >= 1
    assert main.details["accounting"] == "not asked yet"
    jobs.backend.get_status("1:ccat-nobody")
    assert jobs.backend.queue_status()[0].details["accounting"] == "ok"
    assert main.nodes is not None
    assert sum(main.nodes.values()) == 4
    assert main.others_pending == 0


def test_a_waiting_array_counts_as_its_tasks(slurm_cluster: Cluster) -> None:
    tasks = ("--hold", "--array=0-9,20-28:4%2", "--output=/dev/null", "--partition=main", "--wrap=true")
    number = slurm_cluster.ask("sbatch", "--parsable", *tasks).strip()
    try:
        listed = slurm_cluster.ask(*QUEUED)
        assert parse_queued(listed, (), ())["main"] == 13
        assert parse_queued(listed, {number}, ()) == {}
    finally:
        slurm_cluster.ask("scancel", number)


def test_a_job_limit_is_a_wait_and_lets_through_what_fits(jobs: SlurmHarness, slurm_cluster: Cluster) -> None:
    """Half an array fits: half of it is taken, the rest waits with the words of Slurm."""
    shim(
        jobs.workdir / "programs",
        "sbatch",
        "for word; do case $word in --array=0-3|--array=0-7) ;; --array=*) "
        'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1 ;; esac; done; exec "$real" "$@"',
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(jobs.workdir / "programs"), prepend=":")
        results = jobs.backend.submit_many([jobs.request("true") for _ in range(16)])
    assert all(isinstance(result, str) for result in results), results


def test_a_cluster_that_takes_no_more_jobs(reaper: Reaper, tmp_path: Path) -> None:
    """`sbatch` is not left to try again for minutes; what fits is taken, and the rest waits with Slurm's words."""
    cluster = Cluster(reaper, nodes=1, accounting=False, extra=["MaxJobCount=12"])
    try:
        cluster.start()
        jobs = slurm_harness(cluster, tmp_path)
        endless = [jobs.request("sleep", "1000") for _ in range(20)]
        results = jobs.backend.submit_many(endless)
        kinds = [type(result) for result in results]
        assert kinds == [str] * kinds.count(str) + [LimitReached] * kinds.count(LimitReached)
        assert len(cluster.ask("squeue", "-h", "-r", "-o", "%i").split()) == kinds.count(str) > 8
        assert "temporarily unable to accept job" in str(results[-1])
        assert jobs.backend.full(jobs.resources, 0) is results[-1]
        jobs.close()
    finally:
        cluster.close()


KILLED_RUN = """
import os, sys
from tests.support.reaper import Reaper
from tests.backends.slurm.cluster import Cluster
cluster = Cluster(Reaper(), nodes=1, accounting=False)
cluster.start()
cluster.ask("sbatch", "-o", "/dev/null", "--wrap", "exec sleep 4321")
while cluster.ask("squeue", "-h", "-o", "%T") != "RUNNING":
    pass
print(cluster.directory, flush=True)
os.kill(os.getpid(), 9)
"""


def test_nothing_is_left_of_a_test_run_that_is_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUN], capture_output=True, text=True, timeout=PATIENCE, cwd=os.getcwd()
    )
    directory = Path(done.stdout.strip())
    assert directory.name.startswith("ccat-wm-slurm-"), done.stderr
    wait_until(lambda: not directory.exists(), 20, f"{directory} to be removed")
    mark = f"SLURM_CONF={directory}".encode()
    wait_until(lambda: not _marked(mark), 40, "the end of its processes")


def _marked(mark: bytes) -> list[str]:
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue
    return found
