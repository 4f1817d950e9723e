"""The backend at moto, which runs each job in a real container of a private Docker daemon.

moto is not AWS Batch either: its differences are listed in docs/backends/aws_batch.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.aws_batch.backend import AwsBatchBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness, Job
from tests.backends.aws_batch.harness import SH, native_request
from tests.backends.aws_batch.moto_server import IMAGE, Moto, busybox
from tests.support.docker_daemon import DockerDaemon
from tests.support.fixtures_aws_batch import CREDENTIALS, NO_CONFIGURATION, REGION
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

pytestmark = pytest.mark.needs("docker")

JobsWith: TypeAlias = Callable[..., BackendHarness]


@pytest.fixture(scope="module")
def moto(reaper: Reaper) -> Iterator[Moto]:
    daemon = DockerDaemon(Path(tempfile.mkdtemp(prefix="ccat-wm-docker-")), reaper)
    daemon.client.api.import_image_from_data(busybox(), repository=IMAGE.partition(":")[0], tag="1")
    server = Moto(daemon, reaper)
    yield server
    server.close()
    daemon.close()


@pytest.fixture
def jobs_with(moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsWith]:
    for name, value in {**CREDENTIALS, **NO_CONFIGURATION, "AWS_ENDPOINT_URL": moto.url}.items():
        monkeypatch.setenv(name, value)
    general: dict[str, Any] = {
        "job_queue": "main",
        "region": REGION,
        "image": IMAGE,
        "volumes": str(tmp_path),
        "calls_per_minute": 10_000,
        "state_dir": str(tmp_path / "state"),
    }
    with ExitStack() as stack:

        def make(**settings: Any) -> BackendHarness:
            create = partial(AwsBatchBackend, **{**general, **settings})
            harness = BackendHarness(create=create, workdir=tmp_path, patience_seconds=60)
            stack.callback(harness.close)
            return harness

        yield make


@pytest.fixture
def jobs(jobs_with: JobsWith) -> BackendHarness:
    return jobs_with()


def test_success(jobs: BackendHarness) -> None:
    """A container sees the directory of its attempt, leaves output, logs and exit record there."""
    text = 'cat /etc/os-release; ls /bin/busybox; echo "$VALUE" >"$0"; echo said >&2; pwd'
    attempt = jobs.attempt()
    value = "it's $(a) \u00e9"
    job = jobs.submit(*SH, text, str(attempt.output / "file"), environment={"VALUE": value}, attempt=attempt)
    assert jobs.backend.find(job.request.job_name) == job.id
    info = jobs.until(job, JobStatus.COMPLETED)
    assert (info.exit_code, info.cpu_hours is not None, info.wall_time_seconds is not None) == (0, True, True)
    assert (attempt.output / "file").read_text() == f"{value}\n"
    log = jobs.backend.get_logs(job.id)
    assert "/bin/busybox\n" in log  # of the image
    assert "PRETTY_NAME" not in log  # of the machine
    assert str(attempt.workspace) in log
    assert "said" in log
    assert jobs.create().find(job.request.job_name) == job.id


def test_failure(jobs: BackendHarness) -> None:
    info = jobs.until(jobs.submit(*SH, "exit 3"), JobStatus.FAILED)
    assert (info.exit_code, info.reason) == (3, FailureReason.PROGRAM_FAILED)
    info = jobs.until(jobs.submit("/no/such/program"), JobStatus.FAILED)
    assert info.reason is FailureReason.COMMAND_NOT_FOUND


def test_terminate(jobs: BackendHarness) -> None:
    job = jobs.submit("sleep", "100")
    jobs.until(job, JobStatus.RUNNING)
    wait_until(lambda: job.id in {each.job_id for each in jobs.backend.list_jobs()}, 10, "the job to be listed")
    jobs.backend.cancel(job.id)
    assert "cancelled by" in str(jobs.until(job, JobStatus.CANCELLED).message)
    assert job.id not in {each.job_id for each in jobs.backend.list_jobs()}
    jobs.backend.cancel(job.id)
    assert jobs.backend.get_status(job.id).status is JobStatus.CANCELLED


def test_the_log_of_a_container_without_its_script(jobs_with: JobsWith, tmp_path: Path) -> None:
    """The container sees an empty directory. The error of its shell is in CloudWatch."""
    (tmp_path / "empty").mkdir()
    jobs = jobs_with(volumes=f"{tmp_path}={tmp_path / 'empty'}")
    lost = jobs.submit("true")
    info = jobs.until(lost, JobStatus.FAILED)
    assert info.reason is FailureReason.BACKEND_FAILED
    assert str(tmp_path) in jobs.backend.get_logs(lost.id)
    assert str(tmp_path) in str(info.message)


def test_a_step_in_its_own_image(jobs_with: JobsWith) -> None:
    """The container is the step's: its directories are where every step has them, its search path is the image's."""
    jobs = jobs_with(image="", mode="native", native_trusted=True)
    attempt = jobs.attempt()
    text = 'echo here >/workflow/output/file; pwd; echo "$PATH"; cat /workflow/workspace/given'
    (attempt.workspace / "given").write_text("given\n")
    request = native_request(jobs, f"docker://{IMAGE}", attempt, Path("/workflow"), *SH, text)
    (job,) = jobs.submit_all([request])
    assert isinstance(job, Job)
    jobs.until(job, JobStatus.COMPLETED)
    assert (attempt.output / "file").read_text() == "here\n"
    where, path, given = jobs.backend.get_logs(job.id).splitlines()
    assert (where, given) == ("/workflow/workspace", "given")
    assert path.startswith("/"), path
