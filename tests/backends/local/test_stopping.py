"""Stopping jobs, by hand and by their limits: completely, and with the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.testing.programs import FAMILY, HOG
from tests.backends.local.site import Site, is_alive
from tests.support.waiting import PATIENCE, wait_until


def test_cancel_ends_every_process(either_site: Site, tmp_path: Path) -> None:
    job_id = either_site.sh(FAMILY, str(tmp_path))
    wait_until((tmp_path / "ready").exists, what="the family")
    pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    assert all(map(is_alive, pids))
    either_site.backend.cancel(job_id)
    info = either_site.ended(job_id)
    assert (info.status, info.reason) == (JobStatus.CANCELLED, FailureReason.CANCELLED)
    assert not any(map(is_alive, pids))


def test_a_program_has_the_grace_period_to_tidy_up(make_site: Callable[..., Site], tmp_path: Path) -> None:
    site = make_site(grace=PATIENCE)
    tidy = tmp_path / "tidy"
    job_id = site.sh(
        "trap 'sleep 0.2; echo done > \"$1\"; exit 0' TERM; echo on; while :; do sleep 0.01; done", str(tidy)
    )
    wait_until(lambda: "on" in site.backend.get_logs(job_id), what="the program to start")
    site.backend.cancel(job_id)
    assert site.ended(job_id).status is JobStatus.CANCELLED
    assert tidy.read_text() == "done\n"


def test_the_signal_that_wakes_a_job_is_not_what_it_died_of(make_site: Callable[..., Site]) -> None:
    """Apptainer ends with 128 and the number of the last signal that it was sent."""
    site = make_site(grace=PATIENCE)
    script = "trap 'exit 146' TERM; echo on; while :; do sleep 0.01; done"
    job_id = site.sh(script)
    wait_until(lambda: "on" in site.backend.get_logs(job_id), what="the program to start")
    site.backend.cancel(job_id)
    info = site.ended(job_id)
    assert (info.status, info.exit_code, info.signal) == (JobStatus.CANCELLED, 143, 15)
    info = site.ended(site.sh("exit 146"))
    assert (info.status, info.exit_code) == (JobStatus.FAILED, 146)


def test_cancel_of_a_stopped_process(site: Site) -> None:
    job_id = site.sh("kill -STOP $$")
    site.until(job_id, JobStatus.RUNNING)
    site.backend.cancel(job_id)
    assert site.ended(job_id).status is JobStatus.CANCELLED


def test_cancel_while_queued_never_starts_it(site: Site, tmp_path: Path) -> None:
    first = site.run("sleep", "1000", cpu=2)
    second = site.sh('touch "$1"', str(tmp_path / "ran"), cpu=2)
    info = site.until(second, JobStatus.PENDING)
    assert info.message == "capacity: 2 of 2 CPUs in use"
    site.backend.cancel(second)
    info = site.ended(second)
    assert (info.status, info.exit_code, info.started_at) == (JobStatus.CANCELLED, None, None)
    site.backend.cancel(first)
    site.ended(first)
    site.ended(site.run("true", cpu=2))
    assert not (tmp_path / "ran").exists()


def test_cancel_is_never_an_error(site: Site) -> None:
    job_id = site.run("true")
    assert site.ended(job_id).status is JobStatus.COMPLETED
    for strange in (job_id, job_id, "no-such-job", "", "../../etc/passwd", "nul\0byte", "\udcff"):
        site.backend.cancel(strange)
    assert site.backend.get_status(job_id).status is JobStatus.COMPLETED


def test_time_limit(site: Site) -> None:
    info = site.ended(site.sh('trap "" TERM; while :; do sleep 0.01; done', seconds=0.5))
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.TIME_LIMIT)
    assert info.message == "the job was ended after its time limit of 0.5 s"
    assert info.wall_time_seconds is not None
    assert 1.0 <= info.wall_time_seconds < PATIENCE


def test_memory_limit(either_site: Site) -> None:
    info = either_site.ended(either_site.run(sys.executable, "-I", "-S", "-c", HOG, memory_gb=0.125))
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.OUT_OF_MEMORY)
    assert info.peak_memory_gb is not None
    assert info.peak_memory_gb > 0.1


@pytest.mark.parametrize("trick", ["", 'rm "$1"; ', 'mv "$1" "$1.old"; ', 'mv "$1" ./mine; '])
def test_log_limit(site: Site, trick: str) -> None:
    request = site.request("/bin/sh", "-c", f"{trick}yes", "sh", name="job-noisy")
    log = site.files(request).stdout
    [job_id] = site.submit(replace(request, execution_command=[*request.execution_command, log]))
    info = site.ended(job_id)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.LOG_LIMIT)
    assert info.message is not None
    assert "MB of log; LOG_LIMIT_MB allows 1" in info.message


def test_disk_limit(make_site: Callable[..., Site]) -> None:
    site = make_site(disk_gb=0.01)
    small = site.sh("head -c 5000000 /dev/zero >x; exec sleep 1000")
    info = site.ended(site.sh("mkdir -p a/b; head -c 20000000 /dev/zero >a/b/x; exec sleep 1000"))
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.DISK_LIMIT)
    assert info.message is not None
    assert "DISK_LIMIT_GB" in info.message
    assert site.backend.get_status(small).status is JobStatus.RUNNING


def test_the_jobs_after_an_out_of_memory_kill_are_innocent(site: Site) -> None:
    hungry = site.run(sys.executable, "-I", "-S", "-c", HOG, memory_gb=0.125)
    assert site.ended(hungry).reason is FailureReason.OUT_OF_MEMORY
    infos: list[HPCJobInfo] = site.all_ended(site.submit(*(site.request("false") for _ in range(10))))
    assert {info.reason for info in infos} == {FailureReason.PROGRAM_FAILED}


def test_a_program_that_ends_while_it_is_cancelled_is_cancelled_once(site: Site) -> None:
    ids = site.submit(*(site.request("sleep", "0.05") for _ in range(20)))
    while not all(info.finished for info in site.backend.get_statuses(ids).values()):
        site.backend.cancel_many(ids[10:])
    infos = site.all_ended(ids)
    assert {info.status for info in infos[:10]} == {JobStatus.COMPLETED}
    assert {info.status for info in infos[10:]} <= {JobStatus.COMPLETED, JobStatus.CANCELLED}
