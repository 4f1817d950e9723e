"""Jobs that share no filesystem with the worker: their attempts travel through S3.

The stand-in hides the worker's directory from its containers, so that nothing gets there but by way of the bucket.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.aws_batch.staging import STAGER, pack, unpack
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.clauses import CLAUSES, Clause
from tests.backends.aws_batch.harness import SH, AwsBatchHarness, aws_batch_harness
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
needs_root = pytest.mark.needs("root")


@pytest.fixture
def apart(aws_batch: StandIn, tmp_path: Path) -> Iterator[AwsBatchHarness]:
    workdir = tmp_path / "worker"
    workdir.mkdir()
    harness = aws_batch_harness(aws_batch, workdir, volumes="", s3_prefix="s3://bucket/some/prefix/")
    aws_batch.site.hidden = workdir
    yield harness
    mend(aws_batch)
    harness.close()


@needs_root
@pytest.mark.parametrize("clause", [each for each in CLAUSES if each.name in APART], ids=lambda each: each.name)
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


def test_results_that_cannot_be_unpacked_are_fetched_again(apart: AwsBatchHarness, aws_batch: StandIn) -> None:
    """Nothing is concluded from a damaged answer."""
    aws_batch.site.hidden = None
    good = zlib.compress(b"")
    objects: dict[str, bytes] = {}
    with mock.patch.object(aws_batch.buckets, "objects", objects):
        job = apart.submit("true")
        path = f"/bucket/some/prefix/{job.request.job_name}/out.tar.gz"
        wait_until(lambda: path in objects, 30, "the results")
        whole, objects[path] = objects[path], good
        Path(apart.workdir / "attempts/1" / f"{job.request.job_name}.exit.json").unlink()
        with pytest.raises(Exception, match="cannot be unpacked"):
            wait_until(lambda: apart.backend.get_status(job.id).finished, 10, "the end")
        objects[path] = whole
        apart.until(job, JobStatus.COMPLETED)


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


def test_paths_out_of_an_attempt_are_not_unpacked(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "good").write_text("good")
    os.symlink("/etc", source / "link")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(source / "good", "logs/good")
        tar.add(source / "good", "../outside")
        tar.add(source / "good", "/absolute/good")
        tar.add(source / "link", "logs/link")
    with tarfile.open(tmp_path / "x.tar") as tar:
        unpack(tar, target)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    assert found == {"logs/good", "absolute/good"}
    assert not (tmp_path / "outside").exists()


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
