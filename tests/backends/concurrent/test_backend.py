"""What only the concurrent backend does: its pool, and jobs whose worker is gone."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import claim, process_tree
from ccat_workflow_manager.hpc.attempt.claim import CANCELLED
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess
from ccat_workflow_manager.hpc.attempt.runner import JobRunner, Limits
from ccat_workflow_manager.hpc.concurrent.backend import ConcurrentBackend
from ccat_workflow_manager.hpc.concurrent.tickets import Ticket, TicketStore
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.testing.backend_contract import BackendHarness
from ccat_workflow_manager.testing.harness import Job
from tests.backends.concurrent.test_contract import ConcurrentHarness
from tests.support.waiting import PATIENCE, wait_for, wait_until


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[ConcurrentHarness]:
    """A pool with a single place."""
    config: dict[str, Any] = {"state_dir": str(tmp_path / "state"), "max_workers": 1, "kill_grace_seconds": 0.3}
    harness = ConcurrentHarness(create=partial(ConcurrentBackend, **config), workdir=tmp_path, config=config)
    yield harness
    harness.close()


def _backend(jobs: BackendHarness) -> ConcurrentBackend:
    assert isinstance(jobs.backend, ConcurrentBackend)
    return jobs.backend


def _blocked(jobs: BackendHarness) -> tuple[Job, Job]:
    """A job that runs and one that has to wait for it."""
    first, second = jobs.submit("sleep", "1000"), jobs.submit("true")
    jobs.until(first, JobStatus.RUNNING)
    assert jobs.backend.get_status(second.id).status is JobStatus.PENDING
    return first, second


def test_one_place_one_job(jobs: ConcurrentHarness) -> None:
    first, second = _blocked(jobs)
    wait_until(lambda: (jobs.backend.queue_status()[0].running, jobs.backend.queue_status()[0].pending) == (1, 1))
    jobs.backend.cancel(first.id)
    jobs.until(second, JobStatus.COMPLETED)
    assert _backend(jobs).wait(second.id, PATIENCE)
    wait_until(lambda: (jobs.backend.queue_status()[0].running, jobs.backend.queue_status()[0].pending) == (0, 0))


def test_cancelled_while_waiting_never_starts(jobs: ConcurrentHarness, tmp_path: Path) -> None:
    first, _ = _blocked(jobs)
    waiting = jobs.submit("touch", str(tmp_path / "started"))
    jobs.backend.cancel(waiting.id)
    assert jobs.backend.get_status(waiting.id).status is JobStatus.CANCELLED
    jobs.backend.cancel(first.id)
    last = jobs.submit("true")
    jobs.until(last, JobStatus.COMPLETED)
    assert not (tmp_path / "started").exists()
    assert jobs.backend.get_status(waiting.id).status is JobStatus.CANCELLED


def test_forgotten_while_waiting_never_starts(jobs: ConcurrentHarness, tmp_path: Path) -> None:
    first, _ = _blocked(jobs)
    waiting = jobs.submit("touch", str(tmp_path / "started"))
    jobs.backend.cancel(waiting.id)
    jobs.backend.cleanup(waiting.id)
    jobs.backend.cancel(first.id)
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    assert not (tmp_path / "started").exists()
    assert [path.name for path in jobs.state_dir.iterdir() if path.name.startswith(waiting.id)] == []


def test_submitting_a_name_again_adopts(jobs: ConcurrentHarness, tmp_path: Path) -> None:
    request = jobs.request("/bin/sh", "-c", 'echo once >> "$1"', "sh", str(tmp_path / "starts"))
    ids = {jobs.submit_request(request).id for _ in range(3)}
    assert ids == {request.job_name}
    jobs.until(jobs.submit("true"), JobStatus.COMPLETED)
    assert (tmp_path / "starts").read_text() == "once\n"


def _never_started(info: HPCJobInfo) -> None:
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.NODE_FAILURE)
    assert "never started" in str(info.message)


def test_close_drops_what_waits_and_lets_go_of_what_runs(jobs: ConcurrentHarness) -> None:
    first, second = _blocked(jobs)
    other = jobs.create()
    jobs.backend.close()
    _never_started(other.get_status(second.id))
    assert other.get_status(first.id).status is JobStatus.RUNNING
    other.cancel(first.id)
    wait_until(lambda: other.get_status(first.id).status is JobStatus.CANCELLED)
    other.close()


DYING_WORKER = """
import json, os, sys
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.hpc.concurrent.backend import ConcurrentBackend
root, gate = sys.argv[1:]
backend = ConcurrentBackend(state_dir=root + "/state", max_workers=1)
for name, command in ("first", f'until [ -e "{gate}" ]; do sleep 0.02; done; exit 5'), ("second", "exit 0"):
    for directory in "workspace", "logs":
        os.makedirs(f"{root}/{name}/{directory}")
    backend.submit(
        execution_command=["/bin/sh", "-c", command], image_ref=None, sif_path=None, input_dir="", output_dir="",
        workspace_dir=f"{root}/{name}/workspace", manifest_path="", resource_requirements=Resources(memory_gb=0.5),
        environment_variables={}, job_name=name,
    )
while backend.get_status("first").status != "running":
    pass
os.kill(os.getpid(), 9)
"""


def test_a_worker_that_dies_loses_what_waits_but_not_what_runs(tmp_path: Path) -> None:
    gate = tmp_path / "go"
    worker = subprocess.run([sys.executable, "-c", DYING_WORKER, str(tmp_path), str(gate)], timeout=PATIENCE)
    assert worker.returncode == -9
    backend = ConcurrentBackend(state_dir=tmp_path / "state")
    _never_started(backend.get_status("second"))
    assert backend.get_status("first").status is JobStatus.RUNNING
    assert [job.job_id for job in backend.list_jobs()] == ["first"]
    backend.cleanup("second")
    assert backend.find("second") is None
    gate.touch()
    wait_until(lambda: backend.get_status("first").status is JobStatus.FAILED)
    info = backend.get_status("first")
    assert (info.exit_code, info.reason) == (5, FailureReason.PROGRAM_FAILED)
    backend.close()


def _orphaned(directory: Path, **owner: Any) -> Ticket:
    """A job that waits in the pool of another worker."""
    owner = {"host": platform.node(), "boot": process_tree.boot_id(), "pid": 2**22 + 1, "started": 1, **owner}
    ticket = Ticket("ccat-1", str(directory / "workspace"), 1.0, HostProcess(**owner), Limits())
    assert TicketStore(directory / "state").add(ticket.job_id, ticket)
    return ticket


def test_what_waits_on_another_host_is_left_to_it(tmp_path: Path) -> None:
    backend = ConcurrentBackend(state_dir=tmp_path / "state")
    ticket = _orphaned(tmp_path, host="elsewhere")
    assert backend.get_status(ticket.job_id).status is JobStatus.UNKNOWN
    assert claim.read(ticket.files) is None
    backend.close()


def test_what_waited_before_this_host_was_started_anew_never_starts(tmp_path: Path) -> None:
    backend = ConcurrentBackend(state_dir=tmp_path / "state")
    _never_started(backend.get_status(_orphaned(tmp_path, boot="an-older-one", pid=os.getpid()).job_id))
    backend.close()


def test_what_is_cancelled_while_it_is_found_to_be_dead_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, other = (ConcurrentBackend(state_dir=tmp_path / "state") for _ in range(2))
    job_id = _orphaned(tmp_path).job_id
    block = claim.block

    def slow_block(files: AttemptFiles, why: str) -> bool:
        if why != CANCELLED:
            monkeypatch.undo()
            other.cancel(job_id)
        return block(files, why)

    monkeypatch.setattr(claim, "block", slow_block)
    assert backend.get_status(job_id).status is JobStatus.CANCELLED
    backend.close()
    other.close()


def test_an_orphan_is_cancelled_by_the_next_worker(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DYING_WORKER, str(tmp_path), str(tmp_path / "never")], timeout=PATIENCE)
    backend = ConcurrentBackend(state_dir=tmp_path / "state")
    backend.cancel("first")
    assert backend.get_status("first").status is JobStatus.CANCELLED
    backend.close()


@pytest.mark.parametrize("trick", ["", "rm ../*.logs/stdout.log logs/stdout.log; "])
def test_log_limit(tmp_path: Path, trick: str) -> None:
    backend = partial(ConcurrentBackend, state_dir=tmp_path / "state", log_limit_mb=1, kill_grace_seconds=0.2)
    with closing(BackendHarness(create=backend, workdir=tmp_path)) as harness:
        info = harness.until(harness.submit("/bin/sh", "-c", f"{trick}yes"), JobStatus.FAILED)
        assert info.reason is FailureReason.LOG_LIMIT


def test_disk_limit(tmp_path: Path) -> None:
    backend = partial(ConcurrentBackend, state_dir=tmp_path / "state", disk_limit_gb=0.01, kill_grace_seconds=0.2)
    with closing(BackendHarness(create=backend, workdir=tmp_path)) as harness:
        job = harness.submit("/bin/sh", "-c", "head -c 20000000 /dev/zero >x; exec sleep 1000")
        assert harness.until(job, JobStatus.FAILED).reason is FailureReason.DISK_LIMIT


def test_nothing_is_left_behind_by_a_job_that_ends_by_itself(jobs: ConcurrentHarness) -> None:
    job = jobs.submit("/bin/sh", "-c", 'setsid sleep 1000 & echo $! > "$1"', "sh", str(jobs.workdir / "pid"))
    jobs.until(job, JobStatus.COMPLETED)
    pid = int((jobs.workdir / "pid").read_text())
    process = process_tree.look(pid)
    assert process is None or not process.alive


def test_peak_memory_is_not_that_of_the_worker(jobs: ConcurrentHarness) -> None:
    ballast = bytearray(b"x" * 300 * 1024 * 1024)
    job = jobs.submit("sleep", "0.3")
    info = jobs.until(job, JobStatus.COMPLETED)
    del ballast
    assert info.peak_memory_gb is not None
    assert info.peak_memory_gb < 0.05


def test_usage_of_a_running_job(jobs: ConcurrentHarness) -> None:
    job = jobs.submit("sleep", "1000")
    assert jobs.backend.get_resource_usage("no-such-job") is None
    usage = wait_for(lambda: jobs.backend.get_resource_usage(job.id))
    assert usage.processes in (1, 2)
    assert usage.memory_gb is not None
    assert 0 <= usage.memory_gb < 0.1


def test_a_runner_that_fails_does_not_leave_its_job_running(
    jobs: ConcurrentHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: JobRunner) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobRunner, "step", broken)
    job = jobs.submit("sleep", "1000")
    wait_until(lambda: jobs.backend.get_status(job.id).finished)
    info = jobs.backend.get_status(job.id)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.BACKEND_FAILED)
    ticket = TicketStore(jobs.state_dir).get(job.id)
    assert ticket is not None
    assert ticket.process is not None
    assert not ticket.process.running


def test_damaged_exit_record_is_named(jobs: ConcurrentHarness) -> None:
    job = jobs.submit("true")
    jobs.until(job, JobStatus.COMPLETED)
    Path(AttemptFiles.of(job.request.workspace_dir, job.id).record).write_text('{"version": 1')
    info = jobs.backend.get_status(job.id)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.EXIT_RECORD_UNREADABLE)


def test_a_pool_process_that_is_killed_is_replaced(tmp_path: Path) -> None:
    create = partial(ConcurrentBackend, state_dir=tmp_path / "state", max_workers=1, executor="process")
    with closing(BackendHarness(create=create, workdir=tmp_path)) as harness:
        job = harness.submit("sleep", "1000")
        harness.until(job, JobStatus.RUNNING)
        waiting = harness.submit("true")
        found = claim.read(AttemptFiles.of(job.request.workspace_dir, job.id))
        assert found is not None
        owner = HostProcess.parse(found.owner)
        assert owner is not None
        os.kill(owner.pid, signal.SIGKILL)
        wait_until(lambda: harness.backend.get_status(waiting.id).finished)
        _never_started(harness.backend.get_status(waiting.id))
        assert harness.backend.get_status(job.id).status is JobStatus.RUNNING
        harness.until(harness.submit("true"), JobStatus.COMPLETED)


@pytest.mark.parametrize("config", [{"executor": "fibre"}, {"max_workers": -1}])
def test_bad_configuration_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ConcurrentBackend(**config)


def test_a_state_directory_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(BackendUnavailable):
        ConcurrentBackend(state_dir="/proc/none")


def test_cleanup_forgets_the_finished_only(jobs: ConcurrentHarness) -> None:
    first, _ = _blocked(jobs)
    jobs.backend.cleanup(first.id)
    assert jobs.backend.get_status(first.id).status is JobStatus.RUNNING
    jobs.backend.cancel(first.id)
    jobs.until(first, JobStatus.CANCELLED)
    jobs.backend.cleanup(first.id)
    jobs.backend.cleanup("no-such-job")
    assert jobs.backend.get_status(first.id).status is JobStatus.UNKNOWN
    assert [path.name for path in jobs.state_dir.iterdir() if path.name.startswith(first.id)] == []
