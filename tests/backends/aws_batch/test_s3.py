"""Jobs that share no filesystem with the worker: their attempts travel through S3.

The stand-in hides the worker's directory from its containers, so that nothing gets there but by way of the bucket.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.aws_batch import staging
from ccat_workflow_manager.hpc.aws_batch.staging import STAGER, pack
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.clauses import CLAUSES, Clause
from ccat_workflow_manager.testing.harness import Job
from tests.backends.aws_batch.harness import SH, AwsBatchHarness, aws_batch_harness, native_request
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.fixtures_aws_batch import mend
from tests.support.waiting import wait_until

APART = (
    "exit_0_is_completed",
    "exit_3_is_failed",
    "missing_program_is_failed",
    "killed_by_signal_is_failed",
    "exit_record_is_there",
    "metrics_are_plausible",
    "arguments_and_environment_arrive",
    "awkward_paths",
    "environment_is_clean",
    "starts_in_workspace",
    "logs_after_the_end",
    "tail_of_a_stream",
    "cancel_running",
    "cancel_at_once",
    "time_limit",
    "memory_limit",
    "submit_many_in_order",
    "fifty_ids_one_status_call",
    "find_by_name",
)
"""Clauses whose jobs read and write nothing but their own attempt."""
ALWAYS = ("exit_0_is_completed", "exit_3_is_failed", "logs_after_the_end", "cancel_running")
"""Where staging shows. The others are about the job itself."""
S3 = {"s3_prefix": "s3://bucket/some/prefix/", "s3_result_limit_gb": 0.001}
needs_root = pytest.mark.needs("root")


@pytest.fixture
def apart(aws_batch: StandIn, tmp_path: Path) -> Iterator[AwsBatchHarness]:
    workdir = tmp_path / "worker"
    workdir.mkdir()
    harness = aws_batch_harness(aws_batch, workdir, volumes="", **S3)
    aws_batch.site.hidden = workdir
    yield harness
    mend(aws_batch)
    harness.close()


@needs_root
@pytest.mark.parametrize(
    "clause",
    [
        pytest.param(each, id=each.name, marks=[] if each.name in ALWAYS else [pytest.mark.slow])
        for each in CLAUSES
        if each.name in APART
    ],
)
def test_clause(clause: Clause, apart: AwsBatchHarness) -> None:
    clause.check(apart)


def test_every_clause_is_there() -> None:
    assert set(APART) <= {each.name for each in CLAUSES}


@needs_root
def test_inputs_go_along_and_only_results_come_back(apart: AwsBatchHarness, aws_batch: StandIn) -> None:
    """The targets of links in the attempt are there too, under their own paths."""
    upstream = apart.workdir / "attempts" / "upstream"
    upstream.mkdir(parents=True)
    (upstream / "map.fits").write_text("a map")
    attempt = apart.attempt()
    os.symlink("..", attempt.root / ".run")
    (attempt.root / "upstream").mkdir()
    os.symlink("../.run/upstream", attempt.root / "upstream" / "calibrate")
    text = (
        'cat "$1/upstream/calibrate/map.fits" >"$1/output.partial/copy"; ls "$2" >"$1/output.partial/seen"; '
        'echo x >scratch; ln -s /etc/passwd "$1/output.partial/evil"; echo said'
    )
    job = apart.submit(*SH, text, "sh", str(attempt.root), str(apart.workdir), attempt=attempt)
    apart.until(job, JobStatus.COMPLETED)
    assert (attempt.output / "copy").read_text() == "a map"
    assert (attempt.output / "seen").read_text() == "attempts\n"  # the only entry of the worker's directory
    assert not (attempt.output / "evil").exists()
    assert not (attempt.workspace / "scratch").exists()
    assert apart.backend.get_logs(job.id) == "said\n"
    name = job.request.job_name
    assert any(name in path for path in aws_batch.buckets.objects)
    apart.backend.cleanup(job.id)
    assert not any(name in path for path in aws_batch.buckets.objects)


@needs_root
def test_an_array(apart: AwsBatchHarness) -> None:
    texts = [f'echo {n} >"$0"' for n in range(3)]
    attempts = [apart.attempt() for _ in texts]
    requests = [
        apart.request(*SH, text, str(attempt.output / "n"), attempt=attempt)
        for text, attempt in zip(texts, attempts, strict=True)
    ]
    for job in apart.submit_each(requests):
        assert "_" in job.id
        apart.until(job, JobStatus.COMPLETED)
    assert [(attempt.output / "n").read_text() for attempt in attempts] == ["0\n", "1\n", "2\n"]


@needs_root
def test_the_log_of_a_running_job_is_in_cloudwatch(apart: AwsBatchHarness) -> None:
    job = apart.submit(*SH, "echo early; exec sleep 1000")
    wait_until(lambda: apart.backend.get_logs(job.id) == "early\n", 30, "the first line")
    apart.backend.cancel(job.id)
    apart.until(job, JobStatus.CANCELLED)
    assert apart.backend.tail_logs(job.id, lines=1) == "early\n"


@needs_root
def test_two_jobs_of_one_name_run_the_command_once(apart: AwsBatchHarness) -> None:
    job = apart.submit(*SH, "echo once")
    apart.until(job, JobStatus.COMPLETED)
    assert apart.run_twin(job) == 75


@contextmanager
def results_replaced(apart: AwsBatchHarness, aws_batch: StandIn, content: bytes) -> Iterator[tuple[Job, Job]]:
    """Two jobs that have ended; the results of the first one are `content`."""
    aws_batch.site.hidden = None
    objects: dict[str, bytes] = {}
    with mock.patch.object(aws_batch.buckets, "objects", objects):
        bad, good = apart.submit("true"), apart.submit("true")
        paths = [f"/bucket/some/prefix/{job.request.job_name}/out.tar.gz" for job in (bad, good)]
        wait_until(lambda: objects.keys() >= set(paths), 30, "the results")
        objects[paths[0]] = content
        Path(AttemptFiles.of(bad.request.workspace_dir, bad.request.job_name).record).unlink()
        yield bad, good


def archive(*entries: tarfile.TarInfo) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    return data.getvalue()


def of_size(size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("output.partial/file")
    entry.size = size
    return entry


DAMAGED = {
    "not an archive": b"nothing",
    "cut short": archive(of_size(10**5))[:-100],
    "a name that no filesystem takes": archive(tarfile.TarInfo("output.partial/" + "x" * 300)),
    "a name with a NUL": archive(tarfile.TarInfo("output.partial/\u00e9\0b")),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_archive_fails_its_own_job_only(apart: AwsBatchHarness, aws_batch: StandIn, content: bytes) -> None:
    with results_replaced(apart, aws_batch, content) as (bad, good):
        infos = apart.until_finished([bad, good])
        assert infos[good.id].status is JobStatus.COMPLETED
        assert (infos[bad.id].status, infos[bad.id].reason) == (JobStatus.FAILED, FailureReason.OUTPUT_UNREADABLE)


def test_results_beyond_the_limit_fail_their_own_job_only(apart: AwsBatchHarness, aws_batch: StandIn) -> None:
    with results_replaced(apart, aws_batch, archive(of_size(2 * 10**6))) as (bad, good):
        infos = apart.until_finished([bad, good])
        assert infos[good.id].status is JobStatus.COMPLETED
        assert infos[bad.id].reason is FailureReason.OUTPUT_INVALID
        assert "AWS_BATCH_S3_RESULT_LIMIT_GB" in str(infos[bad.id].message)


def test_a_full_disk_of_the_worker_keeps_its_own_job_waiting(apart: AwsBatchHarness, aws_batch: StandIn) -> None:
    full = OSError(errno.ENOSPC, "no space", "x")
    with results_replaced(apart, aws_batch, archive()) as (waiting, good):
        apart.until(good, JobStatus.COMPLETED)
        with mock.patch.object(staging, "unpack", side_effect=full):
            wait_until(lambda: apart.backend.get_status(waiting.id).attention, 10, "the full disk")
            infos = apart.backend.get_statuses([waiting.id, good.id])
        assert [info.status for info in infos.values()] == [JobStatus.RUNNING, JobStatus.COMPLETED]
        assert "no space" in str(infos[waiting.id].message)


@needs_root
def test_logs_that_the_program_replaces_stay_out_of_cloudwatch(apart: AwsBatchHarness) -> None:
    """A link would show a file of the container, a FIFO would stop the program that copies the logs."""
    text = 'cd "$0/logs"; rm stdout.log stderr.log; ln -s /etc/passwd stdout.log; mkfifo stderr.log; sleep 2'
    attempt = apart.attempt()
    job = apart.submit(*SH, text, str(attempt.root), attempt=attempt)
    apart.until(job, JobStatus.COMPLETED)
    assert "root:" not in apart.backend.get_logs(job.id)


@needs_root
def test_a_native_step_gets_no_keys_of_the_role(aws_batch: StandIn, tmp_path: Path) -> None:
    settings = {"image": "", "mode": "native", "native_trusted": True, "volumes": "", "s3_prefix": "s3://bucket/x"}
    harness = aws_batch_harness(aws_batch, tmp_path, **settings)
    attempt = harness.attempt()
    [job] = harness.submit_each([native_request(harness, "maps:2", attempt, tmp_path / "inside", *SH, "env")])
    harness.until(job, JobStatus.COMPLETED)
    names = {line.partition("=")[0] for line in harness.backend.get_logs(job.id).splitlines()}
    assert "AWS_BATCH_JOB_ID" in names
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" not in names
    harness.close()


@needs_root
def test_a_stager_that_cannot_work(apart: AwsBatchHarness, aws_batch: StandIn) -> None:
    """Its error is shown."""
    aws_batch.site.held = True
    job = apart.submit("true")
    aws_batch.buckets.objects.clear()
    aws_batch.site.held = False
    info = apart.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.BACKEND_FAILED
    assert "404" in str(info.message)


def test_the_stager_needs_nothing_but_python(tmp_path: Path) -> None:
    """No package, no site, and it fits into the command of a job."""
    argv = [sys.executable, "-I", "-S", "-c", f"compile(open({str(STAGER)!r}).read(), 'stager', 'exec')"]
    subprocess.run(argv, check=True)
    assert len(zlib.compress(STAGER.read_bytes(), 9)) * 4 / 3 < 6000


def test_packing_takes_every_target_once(tmp_path: Path) -> None:
    attempt, other = tmp_path / "run" / "a", tmp_path / "run" / "other"
    (attempt / "upstream").mkdir(parents=True)
    other.mkdir()
    (other / "file").write_text("x")
    raw = tmp_path / "raw.fits"
    raw.write_text("raw")
    os.symlink(raw, other / "raw")
    os.symlink("..", attempt / ".run")
    for name in ("first", "second"):
        os.symlink("../.run/other", attempt / "upstream" / name)
    with (tmp_path / "x.tar.gz").open("wb") as file:
        pack(attempt, file)
    with tarfile.open(tmp_path / "x.tar.gz") as tar:
        names = [each.name for each in tar]
    assert names.count(str(other / "file")[1:]) == 1
    assert names.count(str(raw)[1:]) == 1
    assert str(tmp_path / "run")[1:] not in names
