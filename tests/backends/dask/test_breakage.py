"""Dask loses workers, its scheduler, tasks: each has a name of its own, no attempt runs twice, no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from distributed import Client

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import STALE_SECONDS
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.dask.backend import DaskBackend
from ccat_workflow_manager.hpc.dask.on_scheduler import HOLDER
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.testing.harness import BackendHarness, Job
from ccat_workflow_manager.testing.programs import FAMILY, WAIT_FOR_FILE, sh
from tests.backends.dask.cluster import RESOURCES, DaskCluster
from tests.backends.dask.test_contract import dask_client, dask_harness
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_for, wait_until

COUNT_AND_SLEEP = 'echo once >> "$1"; exec sleep 1000'


@pytest.fixture
def jobs(dask_cluster: DaskCluster, tmp_path: Path) -> Iterator[BackendHarness]:
    harness = dask_harness(tmp_path, dask_cluster, tmp_path / "state")
    yield harness
    dask_cluster.close_processes()
    dask_cluster.start()
    harness.close()


def running(jobs: BackendHarness, tmp_path: Path) -> tuple[Job, Path]:
    """A job that runs, and the file in which each start of it leaves a line."""
    starts = tmp_path / "starts"
    job = jobs.submit(*sh(COUNT_AND_SLEEP, str(starts)))
    jobs.until(job, JobStatus.RUNNING)
    wait_until(starts.exists, 10, "the program to start")
    return job, starts


def failed(jobs: BackendHarness, job: Job) -> HPCJobInfo:
    return wait_for(lambda: info if (info := jobs.backend.get_status(job.id)).finished else None, 30, "the end")


def no_process_left(job: Job) -> bool:
    """Whether no process carries the mark of the job."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("CCAT_WM_JOB") == job.id:
                return False
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return True


def job_process_of(job: Job) -> psutil.Process:
    lines = {process: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    [found] = [process for process, line in lines.items() if "run.py" in line and job.id in line]
    return found


def claim_of(job: Job) -> str:
    return AttemptFiles.of(job.request.workspace_dir, job.id).claim


def test_workers_know_nothing_of_this_project(jobs: BackendHarness, dask_cluster: DaskCluster) -> None:
    with Client(dask_cluster.address, set_as_default=False) as client:
        found = client.run(eval, "__import__('importlib.util').util.find_spec('ccat_workflow_manager') is not None")
        assert set(found.values()) == {False}
        schedulers = client.run_on_scheduler(eval, "'ccat_workflow_manager' in __import__('sys').modules")
        assert schedulers is False
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)


def test_a_worker_is_killed_while_another_could_run_the_task_again(
    jobs: BackendHarness, dask_cluster: DaskCluster, tmp_path: Path
) -> None:
    job, starts = running(jobs, tmp_path)
    second = dask_cluster.start_worker()
    with Client(dask_cluster.address, set_as_default=False) as client:
        client.wait_for_workers(2)
        [first] = [worker for worker in dask_cluster.workers if worker is not second]
        first.kill()
        # Dask gives the task to the second worker, where it finds that the attempt was started before.
        wait_until(lambda: client.sync(client.scheduler.get_task_status, keys=[job.id])[job.id] == "erred", 30, "Dask")
    info = failed(jobs, job)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.NODE_FAILURE)
    assert "Dask worker tcp://127.0.0.1" in (info.message or "")
    assert starts.read_text() == "once\n"
    wait_until(lambda: no_process_left(job), 10, "the end of its processes")


def test_the_only_worker_is_killed_with_a_family_of_stubborn_processes(
    jobs: BackendHarness, dask_cluster: DaskCluster
) -> None:
    family = jobs.attempt().root
    job = jobs.submit(*sh(FAMILY, str(family)))
    wait_until((family / "ready").exists, 30, "the family")
    dask_cluster.workers[0].kill()
    info = failed(jobs, job)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.NODE_FAILURE)
    wait_until(lambda: no_process_left(job), 10, "the end of its processes")


def test_a_worker_that_ends_in_order_ends_its_jobs(jobs: BackendHarness, dask_cluster: DaskCluster) -> None:
    job = jobs.submit("sleep", "1000")
    jobs.until(job, JobStatus.RUNNING)
    dask_cluster.workers[0].terminate()
    assert failed(jobs, job).reason is FailureReason.NODE_FAILURE
    wait_until(lambda: no_process_left(job), 10, "the end of its processes")


def test_the_scheduler_is_killed_while_one_runs_and_one_waits(
    jobs: BackendHarness, dask_cluster: DaskCluster, tmp_path: Path
) -> None:
    job, starts = running(jobs, tmp_path)
    waiting = jobs.submit(*sh('echo once >> "$1"', str(tmp_path / "never")), resources=_too_much(jobs))
    dask_cluster.kill_scheduler()
    wait_until(lambda: all(worker.poll() is not None for worker in dask_cluster.workers), 30, "its workers to end")
    dask_cluster.restart()
    for each in (job, waiting):
        info = failed(jobs, each)
        assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.BACKEND_FAILED), info
        assert "scheduler was restarted" in (info.message or "")
    assert starts.read_text() == "once\n"
    wait_until(lambda: no_process_left(job), 10, "the end of its processes")
    # Whoever submits it again, not knowing, starts nothing.
    jobs.submit_request(waiting.request)
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    assert not (tmp_path / "never").exists()


def _too_much(jobs: BackendHarness) -> Resources:
    return replace(jobs.resources, cpu=10 * RESOURCES["cpu"])


def test_what_no_worker_has_waits_and_says_so(jobs: BackendHarness) -> None:
    job = jobs.submit("true", resources=_too_much(jobs))
    info = jobs.until(job, JobStatus.PENDING)
    assert info.message == "no Dask worker has what it asks for"
    jobs.backend.cancel(job.id)
    jobs.until(job, JobStatus.CANCELLED)


def test_workers_that_die_before_the_job_starts(
    jobs: BackendHarness, dask_cluster: DaskCluster, tmp_path: Path
) -> None:
    """Dask's own verdict: KilledWorker."""
    backend = jobs.backend
    assert isinstance(backend, DaskBackend)
    dask_client(backend).run_on_scheduler(_give_up_at_once)
    worker = dask_cluster.workers[0]
    worker.send_signal(signal.SIGSTOP)
    job = jobs.submit(*sh('echo once >> "$1"', str(tmp_path / "never")))
    worker.kill()
    info = failed(jobs, job)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.NODE_FAILURE), info
    assert "KilledWorker" in (info.message or "")
    assert not (tmp_path / "never").exists()


def test_the_job_process_is_killed(jobs: BackendHarness, tmp_path: Path) -> None:
    job, starts = running(jobs, tmp_path)
    job_process_of(job).kill()
    info = failed(jobs, job)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.BACKEND_FAILED)
    assert "watched" in (info.message or "")
    assert starts.read_text() == "once\n"
    wait_until(lambda: no_process_left(job), 10, "the end of its processes")


def test_a_task_that_is_dropped_while_its_job_runs_goes_on(
    jobs: BackendHarness, dask_cluster: DaskCluster, tmp_path: Path
) -> None:
    gate = tmp_path / "go"
    job = jobs.submit(*sh(WAIT_FOR_FILE + "; exit 4", str(gate)))
    jobs.until(job, JobStatus.RUNNING)
    _drop(dask_cluster, job)
    assert jobs.backend.get_status(job.id).status is JobStatus.RUNNING
    gate.touch()
    assert failed(jobs, job).exit_code == 4


def test_a_task_that_is_dropped_before_it_starts_never_starts(jobs: BackendHarness, dask_cluster: DaskCluster) -> None:
    job = jobs.submit("true", resources=_too_much(jobs))
    _drop(dask_cluster, job)
    info = failed(jobs, job)
    assert info.reason is FailureReason.STOPPED_OUTSIDE
    assert "cancelled it there" in (info.message or "")


def _drop(cluster: DaskCluster, job: Job) -> None:
    with Client(cluster.address, set_as_default=False) as client:
        client._send_to_scheduler({"op": "client-releases-keys", "keys": [job.id], "client": HOLDER})
        wait_until(
            lambda: client.sync(client.scheduler.get_task_status, keys=[job.id])[job.id] is None, 10, "Dask to forget"
        )


def test_a_host_that_is_gone_with_everything(jobs: BackendHarness, tmp_path: Path, reaper: Reaper) -> None:
    """Without a record the job has failed once its claim is stale and Dask has lost the worker."""
    job, _ = running(jobs, tmp_path)
    backend = jobs.backend
    assert isinstance(backend, DaskBackend)
    frozen = job_process_of(job)
    reaper.watch(frozen.pid)
    frozen.suspend()
    try:
        long_ago = os.stat(claim_of(job)).st_mtime - 2 * STALE_SECONDS
        os.utime(claim_of(job), (long_ago, long_ago))
        assert backend.get_status(job.id).status is JobStatus.RUNNING, "Dask says that its worker is there"
        dask_client(backend).run_on_scheduler(_forget_workers)
        info = failed(jobs, job)
    finally:
        frozen.resume()
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.NODE_FAILURE)


_ON_SCHEDULER = """
async def forget_workers(dask_scheduler=None):
    for address in list(dask_scheduler.workers):
        await dask_scheduler.remove_worker(address, stimulus_id="test", close=False)

def give_up_at_once(dask_scheduler=None):
    dask_scheduler.allowed_failures = 0
"""
_namespace: dict[str, object] = {"__name__": "not_to_be_imported"}
exec(_ON_SCHEDULER, _namespace)
_forget_workers, _give_up_at_once = _namespace["forget_workers"], _namespace["give_up_at_once"]

SUBMITTER = """
import os, sys
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.hpc.dask.backend import DaskBackend

state_dir, address, workspace, gate, name = sys.argv[1:]
backend = DaskBackend(state_dir=state_dir, scheduler_address=address)
backend.submit(
    execution_command=["/bin/sh", "-c", f"until [ -e '{gate}' ]; do sleep 0.05; done; exit 5"],
    image_ref=None, sif_path=None, input_dir="", output_dir="", workspace_dir=workspace, manifest_path="",
    resource_requirements=Resources(memory_gb=0.5), environment_variables={}, job_name=name,
)
os.kill(os.getpid(), 9)
"""


def test_a_job_survives_the_process_that_submitted_it(
    jobs: BackendHarness, dask_cluster: DaskCluster, tmp_path: Path
) -> None:
    attempt, gate = jobs.attempt(), tmp_path / "go"
    arguments = [str(tmp_path / "state"), dask_cluster.address, str(attempt.workspace), str(gate), "orphan"]
    done = subprocess.run([sys.executable, "-c", SUBMITTER, *arguments], timeout=PATIENCE)
    assert done.returncode == -9
    wait_until(lambda: jobs.backend.get_status("orphan").status is JobStatus.RUNNING, 30, "the job to run")
    assert jobs.backend.find("orphan") == "orphan"
    gate.touch()
    wait_until(lambda: jobs.backend.get_status("orphan").status is JobStatus.FAILED, 30, "the job to end")
    assert jobs.backend.get_status("orphan").exit_code == 5
