"""One job under a runner: its limits, its cancel, its end and its record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.attempt import claim, process_tree
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record, publish, read_record
from ccat_workflow_manager.hpc.attempt.runner import JobRunner, Limits, end_abandoned
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from tests.support.waiting import PATIENCE, wait_until

SHORT = Limits(kill_grace_seconds=0.2)
STUBBORN = "trap '' TERM; echo on; while :; do sleep 0.1; done"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[AttemptFiles]:
    (tmp_path / "workspace").mkdir()
    files = AttemptFiles.of(str(tmp_path / "workspace"), f"job-{os.getpid()}-{tmp_path.name}")
    yield files
    process_tree.kill_all(files.job_name, None)


def write(files: AttemptFiles, text: str) -> None:
    command = ["/bin/sh", "-c", text]
    script = render_job_script(command, environment={}, cwd=files.workspace, files=files, supervised=True)
    write_script(files, script)


def record_of(files: AttemptFiles) -> ExitRecord:
    text = read_record(files)
    assert text is not None
    return parse_exit_record(text)


def run(files: AttemptFiles, text: str, limits: Limits = SHORT) -> ExitRecord:
    write(files, text)
    assert JobRunner(files, limits).run("me")
    assert not process_tree.members(files.job_name, None)
    assert not Path(files.record_part).exists()
    return record_of(files)


def test_an_ordinary_job(files: AttemptFiles) -> None:
    record = run(files, "pwd; exit 3")
    assert (record.exit_code, record.signal, record.stopped_by) == (3, None, None)
    assert record.wall_time_seconds is not None
    assert record.cpu_seconds is not None
    assert Path(files.stdout).read_text() == f"{files.workspace}\n"


def test_a_job_inherits_no_descriptor(files: AttemptFiles) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        run(files, "ls -l /proc/self/fd")
        assert os.readlink(f"/proc/self/fd/{writing}") not in Path(files.stdout).read_text()
    finally:
        os.close(reading)
        os.close(writing)


def test_signals_that_python_ignores_reach_the_job(files: AttemptFiles) -> None:
    assert run(files, "kill -PIPE $$; exit 0").signal == 13


def test_a_claimed_attempt_is_not_run(files: AttemptFiles) -> None:
    write(files, "true")
    assert claim.block(files, "cancelled")
    assert not JobRunner(files, SHORT).run("me")
    assert not Path(files.record_part).exists()


@pytest.mark.parametrize(
    ("text", "limits", "stopped_by"),
    [
        (STUBBORN, Limits(time_seconds=0.2, kill_grace_seconds=0.2), "time_limit"),
        (STUBBORN, Limits(memory_bytes=1, kill_grace_seconds=0.2), "memory_limit"),
        ("while :; do echo more; done", Limits(log_bytes=10_000, kill_grace_seconds=0.2), "log_limit"),
    ],
)
def test_limits(files: AttemptFiles, text: str, limits: Limits, stopped_by: str) -> None:
    record = run(files, text, limits)
    assert record.stopped_by == stopped_by
    assert record.stopped_text
    assert record.oom_killed is (stopped_by == "memory_limit")
    assert record.exit_code


def test_background_processes_end_with_the_job(files: AttemptFiles) -> None:
    assert run(files, "setsid sleep 1000 & exit 4").exit_code == 4


DYING_RUNNER = """
import os, sys
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.runner import JobRunner, Limits
job = JobRunner(AttemptFiles.of(*sys.argv[1:]), Limits()).start()
os.waitpid(job.pid, os.WUNTRACED)
print(job.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_runner_dies_before_the_shell_of_its_job_runs(files: AttemptFiles) -> None:
    write(files, "exit 5")
    job, late = Path(files.script), Path(f"{files.script}.late")
    job.rename(late)
    job.write_text(f"kill -STOP $$; exec /bin/sh '{late}'\n")
    argv = [sys.executable, "-c", DYING_RUNNER, files.workspace, files.job_name]
    runner = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    assert runner.returncode == -9
    os.kill(int(runner.stdout), signal.SIGCONT)
    wait_until(Path(files.record).exists, what="the record")
    assert record_of(files).exit_code == 5


@pytest.fixture
def in_thread() -> Iterator[Callable[[JobRunner], threading.Thread]]:
    threads: list[threading.Thread] = []

    def start(runner: JobRunner) -> threading.Thread:
        threads.append(threading.Thread(target=runner.run, args=("me",)))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(PATIENCE)


def started(files: AttemptFiles) -> bool:
    return Path(files.stdout).exists() and Path(files.stdout).read_text() == "on\n"


def test_cancel(files: AttemptFiles, in_thread: Callable[[JobRunner], threading.Thread]) -> None:
    write(files, "trap 'exit 9' TERM; echo on; while :; do sleep 0.05; done")
    thread = in_thread(JobRunner(files, Limits(kill_grace_seconds=10)))
    wait_until(lambda: started(files), what="the program to start")
    claim.request_cancel(files, 1.0)
    thread.join(PATIENCE)
    assert (record_of(files).stopped_by, record_of(files).exit_code) == ("cancel", 9)


def test_the_carrier_ends(files: AttemptFiles, in_thread: Callable[[JobRunner], threading.Thread]) -> None:
    write(files, STUBBORN)
    reading, writing = os.pipe()
    lost = threading.Event()
    runner = JobRunner(
        files, SHORT, carrier_lost=lambda: "the pilot ended" if lost.is_set() else None, wake_on=[reading]
    )
    thread = in_thread(runner)
    wait_until(lambda: started(files), what="the program to start")
    lost.set()
    os.close(writing)
    thread.join(PATIENCE)
    os.close(reading)
    record = record_of(files)
    assert (record.stopped_by, record.stopped_text, record.exit_code) == ("carrier_lost", "the pilot ended", None)


def test_the_claim_is_touched(files: AttemptFiles, in_thread: Callable[[JobRunner], threading.Thread]) -> None:
    write(files, STUBBORN)
    thread = in_thread(JobRunner(files, SHORT))
    wait_until(lambda: started(files), what="the program to start")
    os.utime(files.claim, (1, 1))
    wait_until(lambda: os.stat(files.claim).st_mtime > 1, 3 * claim.BEAT_SECONDS, what="the heartbeat")
    claim.request_cancel(files, 1.0)
    thread.join(PATIENCE)


def test_a_job_whose_runner_was_killed(files: AttemptFiles) -> None:
    write(files, STUBBORN)
    root = JobRunner(files, SHORT).start()
    wait_until(lambda: started(files), what="the program to start")
    end_abandoned(files, "the runner was killed")
    assert not root.running
    os.waitpid(root.pid, 0)
    assert (record_of(files).exit_code, record_of(files).stopped_text) == (None, "the runner was killed")


def test_a_record_is_published_though_the_job_has_replaced_its_part(files: AttemptFiles, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    Path(files.record_part).symlink_to(tmp_path / "precious")
    publish(files, ExitRecord(files.job_name, 0))
    assert record_of(files).exit_code == 0
    assert (tmp_path / "precious").read_text() == "mine"
