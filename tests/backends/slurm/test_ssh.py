"""The commands of Slurm on another machine, reached through a real SSH server."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.slurm.backend import SlurmBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import Job
from tests.backends.slurm.cluster import Cluster
from tests.backends.slurm.conftest import settings
from tests.backends.slurm.shims import shim
from tests.backends.slurm.sshd import SshServer
from tests.backends.slurm.test_contract import SlurmHarness, slurm_harness
from tests.cli.commands import answer
from tests.support.fixtures_service import ServiceMaker
from tests.support.reaper import Reaper

pytestmark = [pytest.mark.needs("slurm"), pytest.mark.needs("sshd")]
ODD = ["", " ", "a b", "'", '"', "$HOME", "$(id)", "`id`", "\\", "a\nb", "*", "~", "-x", "é✨", "!x", "a;b|c&d", "#"]


@pytest.fixture
def server(tmp_path: Path, reaper: Reaper) -> Iterator[SshServer]:
    directory = tmp_path / "ssh"
    directory.mkdir()
    server = SshServer(directory, reaper)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def only_ssh(tmp_path: Path) -> Path:
    """A search path without any program of Slurm."""
    directory = tmp_path / "only-ssh"
    directory.mkdir()
    found = shutil.which("ssh")
    assert found is not None
    (directory / "ssh").symlink_to(found)
    return directory


@pytest.fixture
def jobs(
    slurm_cluster: Cluster, tmp_path: Path, server: SshServer, only_ssh: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmHarness]:
    harness = slurm_harness(slurm_cluster, tmp_path)
    config = {**harness.config, "ssh_host": "node", "ssh_config": str(server.config)}
    harness.create = partial(SlurmBackend, **config)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(only_ssh))
        yield harness
        server.stop()
        server.start()
        harness.close()


@pytest.mark.slow
def test_jobs_of_another_machine(jobs: SlurmHarness) -> None:
    program = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    job = jobs.submit(sys.executable, "-S", "-c", program, *ODD)
    jobs.until(job, JobStatus.COMPLETED)
    arguments, environment = json.loads(jobs.backend.get_logs(job.id))
    assert arguments == ODD
    assert "LOGIN_SECRET" not in environment
    assert not [name for name in environment if name.startswith("SSH_")]
    taken = jobs.submit_all([jobs.request("/bin/sh", "-c", "exec sleep 1000") for _ in range(5)])
    ids = [each.id for each in taken if isinstance(each, Job)]
    assert len({job_id.partition("_")[0] for job_id in ids}) == 1, "an array"
    assert jobs.backend.find(taken[0].request.job_name) == ids[0]  # type: ignore[union-attr]
    jobs.backend.cancel_many(ids)
    for each in taken:
        assert isinstance(each, Job)
        jobs.until(each, JobStatus.CANCELLED)
    assert {queue.name for queue in jobs.backend.queue_status()} >= {"main", "short"}


def test_what_slurm_refuses_is_told_from_what_ssh_refuses(jobs: SlurmHarness, server: SshServer) -> None:
    request = jobs.request("true")
    # Slurm's own exit code is 255 here, which is the one of ssh as well.
    shim(server.programs, "sbatch", 'echo "sbatch: error: Invalid --time specification" >&2; exit 255')
    with pytest.raises(BackendRejected, match="Invalid --time"):
        jobs.submit_request(request)
    (server.programs / "sbatch").unlink()
    good = (server.directory / "authorized").read_text()
    for breaks, words in ((lambda: server.know(server.directory / "user.pub"), "Host key verification failed"),
                          (lambda: (server.directory / "authorized").write_text(""), "Permission denied")):  # fmt: skip
        server.stop()
        breaks()
        server.start()
        with pytest.raises(BackendUnavailable, match=words):
            jobs.submit_request(request)
        (server.directory / "authorized").write_text(good)
        server.know(server.directory / "host.pub")
    jobs.until(jobs.submit_request(request), JobStatus.COMPLETED)


def test_a_server_that_is_away_is_unavailable(jobs: SlurmHarness, server: SshServer) -> None:
    job = jobs.submit("/bin/sh", "-c", "exec sleep 1000")
    jobs.until(job, JobStatus.RUNNING)
    server.stop()
    with pytest.raises(BackendUnavailable, match="ssh to node failed"):
        jobs.backend.get_status(job.id)
    with pytest.raises(BackendUnavailable, match="ssh to node failed"):
        jobs.backend.cancel(job.id)
    server.start()
    assert jobs.backend.get_status(job.id).status is JobStatus.RUNNING


def test_a_connection_that_breaks_after_sbatch_yields_one_job(
    jobs: SlurmHarness, server: SshServer, slurm_cluster: Cluster
) -> None:
    """The job was taken, and its number was lost."""
    once = server.directory / "once"
    shim(
        server.programs,
        "sbatch",
        f'mkdir {once} || exec "$real" "$@"; "$real" "$@" >/dev/null; kill -9 $(ps -o ppid= -p "$PPID"); sleep 5',
    )
    started = jobs.workdir / "started"
    job = jobs.submit("/bin/sh", "-c", f"echo >> '{started}'")
    assert once.exists()
    jobs.until(job, JobStatus.COMPLETED)
    assert len(started.read_text()) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.defpath)
        assert len(slurm_cluster.jobs(job.request.job_name)) == 1


def test_a_program_that_is_not_there(jobs: SlurmHarness, server: SshServer) -> None:
    shim(server.programs, "squeue", "exit 127")
    with pytest.raises(BackendUnavailable, match="no program 'squeue' on node"):
        jobs.backend.get_status("1:ccat-nobody")


def test_whether_it_can_be_used(only_ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(only_ssh))
    here = registry.list_backends()["slurm"]
    assert not here.available
    assert "SLURM_SSH_HOST" in here.installation_hint
    assert registry.list_backends(lambda name: {"ssh_host": "node"})["slurm"].available
    named = {"CCAT_WORKFLOW_MANAGER_SLURM_SSH_HOST": "node"}
    listed = answer("backends", env=named)
    assert next(each["available"] for each in listed if each["name"] == "slurm")
    assert answer("backend", "detect", env=named) == {"name": "slurm"}
    (only_ssh / "ssh").unlink()
    assert "ssh" in registry.list_backends(lambda name: {"ssh_host": "node"})["slurm"].reason


def test_a_deployment_without_slurm(make_service: ServiceMaker, slurm_cluster: Cluster, server: SshServer) -> None:
    service = make_service(**settings(slurm_cluster), SLURM_SSH_HOST="node", SLURM_SSH_CONFIG=str(server.config))
    step = {"name": "many", "command": ["/bin/true"], "foreach": ["a", "b", "c"], "resources": {"memory_gb": 0.1}}
    run_id = service.submit(step)
    assert service.wait(run_id)["status"] == "COMPLETED"
    log = (server.directory / "log").read_text()
    assert log.count("Accepted publickey") <= 6, "all calls share a few connections"
