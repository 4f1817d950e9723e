"""Logs that grow too large where nothing of ours runs beside the job."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc import log_watch
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.log_watch import LogWatch
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

RUNNING = HPCJobInfo(JobStatus.RUNNING)
WORDS = "the program wrote 2 MB of log; LOG_LIMIT_MB allows 1"


class Jobs:
    """Jobs with logs of so many MB, and what was stopped of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stopped: list[str] = []
        self.looked: list[str] = []

    def write(self, job: str, megabytes: float, stream: str = "stdout") -> None:
        path = Path(getattr(self._files(job), stream))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(int(megabytes * 1024**2)))

    def files(self, job: str) -> AttemptFiles | None:
        self.looked.append(job)
        return None if job == "unknown" else self._files(job)

    def _files(self, job: str) -> AttemptFiles:
        return AttemptFiles.of(str(self.directory / job / "workspace"), job)

    def stop(self, jobs: Sequence[str]) -> None:
        self.stopped += jobs


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def test_a_running_job_is_stopped_and_says_why_when_it_has_ended(jobs: Jobs) -> None:
    jobs.write("long", 1)
    jobs.write("long", 1.2, "stderr")
    jobs.write("short", 0.9)
    watch = LogWatch("batch", 1)
    infos = {"long": RUNNING, "short": RUNNING, "silent": RUNNING, "unknown": UNKNOWN}
    assert watch.apply(infos, jobs.files, jobs.stop) == infos
    assert jobs.stopped == ["long"]
    # By then it may be another process that asks.
    ended = {
        "long": HPCJobInfo(JobStatus.CANCELLED, 143, reason=FailureReason.CANCELLED, cpu_hours=1),
        "short": HPCJobInfo(JobStatus.CANCELLED, 143, reason=FailureReason.CANCELLED),
    }
    seen = LogWatch("batch", 1).apply(ended, jobs.files, jobs.stop)
    assert seen["long"] == HPCJobInfo(JobStatus.FAILED, 143, reason=FailureReason.LOG_LIMIT, message=WORDS, cpu_hours=1)
    assert seen["short"] == ended["short"]


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.PENDING, JobStatus.UNKNOWN])
def test_other_jobs_are_not_looked_at(jobs: Jobs, status: JobStatus) -> None:
    infos = {"one": HPCJobInfo(status)}
    assert LogWatch("batch", 1).apply(infos, jobs.files, jobs.stop) == infos
    assert not jobs.looked


def test_many_jobs_take_turns(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_watch, "_AT_ONCE", 2)
    watch = LogWatch("batch", 1)
    infos = dict.fromkeys("abcde", RUNNING)
    for turns in ("ab", "cd", "e", ""):
        watch.apply(infos, jobs.files, jobs.stop)
        assert "".join(jobs.looked) == turns
        jobs.looked.clear()
    monkeypatch.setattr(log_watch, "_EVERY_SECONDS", 0)
    watch.apply(infos, jobs.files, jobs.stop)
    assert jobs.looked == ["a", "b"]


def test_a_backend_that_is_away_is_asked_again(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_watch, "_EVERY_SECONDS", 0)
    jobs.write("long", 2)

    def away(_: Sequence[str]) -> None:
        raise BackendUnavailable("the controller is silent")

    watch = LogWatch("batch", 1)
    with caplog.at_level(logging.WARNING):
        assert watch.apply({"long": RUNNING}, jobs.files, away) == {"long": RUNNING}
    assert "could not be stopped yet: the controller is silent" in caplog.text
    watch.apply({"long": RUNNING}, jobs.files, jobs.stop)
    assert jobs.stopped == ["long"]


def test_a_log_under_another_name_counts(jobs: Jobs) -> None:
    jobs.write("job", 0.6)
    log = Path(jobs.files("job").stdout)  # type: ignore[union-attr]
    log.rename(log.with_name("moved"))
    jobs.write("job", 0.6)
    LogWatch("batch", 1).apply({"job": RUNNING}, jobs.files, jobs.stop)
    assert jobs.stopped == ["job"]


def test_a_job_without_its_log_is_stopped(jobs: Jobs) -> None:
    """It may go on to write into the removed file, whose size is not known here."""
    watch = LogWatch("batch", 1)
    for job in ("job", "young", "whole"):
        jobs.write(job, 0.1)
        jobs.write(job, 0.1, "stderr")
        files = jobs.files(job)
        assert files is not None
        Path(files.record_part).touch()
        if job != "young":
            os.utime(files.record_part, (0, 0))
        if job != "whole":
            Path(files.stdout).unlink()
    watch.apply(dict.fromkeys(("job", "young", "whole"), RUNNING), jobs.files, jobs.stop)
    assert jobs.stopped == ["job"]
    Path(jobs.directory, "job", "job.exit.part").rename(Path(jobs.directory, "job", "job.exit.json"))
    seen = watch.apply({"job": HPCJobInfo(JobStatus.CANCELLED, 143)}, jobs.files, jobs.stop)
    assert seen["job"].reason is FailureReason.LOG_LIMIT


def test_a_job_that_takes_too_much_disk_is_stopped(jobs: Jobs) -> None:
    for job, megabytes in (("large", 3), ("small", 1)):
        jobs.write(job, 0.1)
        jobs.write(job, 0.1, "stderr")
        (jobs.directory / job / "workspace").mkdir()
        (jobs.directory / job / "workspace" / "x").write_bytes(bytes(megabytes * 1024**2))
    watch = LogWatch("batch", 1, disk_limit_gb=2 / 1024)
    watch.apply(dict.fromkeys(("large", "small"), RUNNING), jobs.files, jobs.stop)
    assert jobs.stopped == ["large"]
    seen = watch.apply({"large": HPCJobInfo(JobStatus.CANCELLED, 143)}, jobs.files, jobs.stop)
    assert seen["large"].reason is FailureReason.DISK_LIMIT
