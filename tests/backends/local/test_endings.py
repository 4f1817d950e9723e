"""What the exit record and the status say about the end of a job."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from ccat_workflow_manager.hpc.base import ResourceUsage
from ccat_workflow_manager.hpc.supervisor.jobs import read_part
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from tests.backends.local.site import Site, is_alive
from tests.support.waiting import wait_for, wait_until


def test_all_the_ways_to_end(site: Site) -> None:
    not_executable = site.root / "text"
    not_executable.parent.mkdir(parents=True, exist_ok=True)
    not_executable.write_text("no program")
    cases = {
        ("/bin/sh", "-c", "exit 0"): (JobStatus.COMPLETED, 0, None, None),
        ("/bin/sh", "-c", "exit 3"): (JobStatus.FAILED, 3, None, FailureReason.PROGRAM_FAILED),
        ("/bin/sh", "-c", "exit 255"): (JobStatus.FAILED, 255, None, FailureReason.PROGRAM_FAILED),
        ("/bin/sh", "-c", "kill -9 $$"): (JobStatus.FAILED, 137, 9, FailureReason.KILLED_BY_SIGNAL),
        ("/bin/sh", "-c", "kill -SEGV $$"): (JobStatus.FAILED, 139, 11, FailureReason.KILLED_BY_SIGNAL),
        ("/nonexistent/program",): (JobStatus.FAILED, 127, None, FailureReason.COMMAND_NOT_FOUND),
        ("no-such-program",): (JobStatus.FAILED, 127, None, FailureReason.COMMAND_NOT_FOUND),
        (str(not_executable),): (JobStatus.FAILED, 126, None, FailureReason.COMMAND_NOT_FOUND),
        # Words that mean something to a shell are programs like any other.
        ("true",): (JobStatus.COMPLETED, 0, None, None),
        ("exit", "0"): (JobStatus.FAILED, 127, None, FailureReason.COMMAND_NOT_FOUND),
        ("A=b",): (JobStatus.FAILED, 127, None, FailureReason.COMMAND_NOT_FOUND),
        ("if",): (JobStatus.FAILED, 127, None, FailureReason.COMMAND_NOT_FOUND),
    }
    ids = site.submit(*(site.request(*command) for command in cases))
    seen = [(info.status, info.exit_code, info.signal, info.reason) for info in site.all_ended(ids)]
    assert dict(zip(cases, seen, strict=True)) == cases


def test_killing_the_job_script_itself_is_seen(site: Site) -> None:
    job_id = site.sh("kill -9 $PPID; exec sleep 1000")
    info = site.ended(job_id)
    assert (info.status, info.signal, info.reason) == (JobStatus.FAILED, 9, FailureReason.KILLED_BY_SIGNAL)


def test_measures(either_site: Site) -> None:
    program = "import time\nx = bytearray(b'x') * 60_000_000\nwhile time.process_time() < 0.3: pass"
    request = either_site.request(sys.executable, "-I", "-S", "-c", program)
    [job_id] = either_site.submit(request)
    info = either_site.ended(job_id)
    assert info.status is JobStatus.COMPLETED
    assert info.cpu_hours is not None
    assert 0.25 < info.cpu_hours * 3600 < 60
    assert info.peak_memory_gb is not None
    assert 0.05 < info.peak_memory_gb < 0.1
    assert info.wall_time_seconds is not None
    assert info.wall_time_seconds >= 0.3
    record = parse_exit_record(Path(either_site.files(request).record).read_text())
    assert record.memory_source in ("cgroup2", "cgroup1", "wait4")
    assert record.job_name == request.job_name
    assert info.submitted_at is not None
    assert info.started_at is not None
    assert info.finished_at is not None
    assert info.submitted_at <= info.started_at <= info.finished_at


def test_only_the_record_and_the_script_are_left(site: Site) -> None:
    request = site.request("true")
    [job_id] = site.submit(request)
    site.ended(job_id)
    left = {path.name for path in Path(request.workspace_dir).parent.iterdir()}
    name = request.job_name
    assert left == {"workspace", f"{name}.logs", f"{name}.sh", f"{name}.exit.json"}


def test_what_a_job_leaves_behind_is_ended(either_site: Site, tmp_path: Path) -> None:
    script = """
    sleep 1000 & echo $! > "$1/child"
    setsid sh -c 'trap "" TERM; echo $$ > "$1/daemon"; while :; do sleep 1000; done' sh "$1" &
    (setsid sh -c 'echo $$ > "$1/orphan"; exec sleep 1000' sh "$1" &)
    until [ -s "$1/daemon" ] && [ -s "$1/orphan" ]; do sleep 0.02; done
    """
    info = either_site.ended(either_site.sh(script, str(tmp_path)))
    assert (info.status, info.exit_code) == (JobStatus.COMPLETED, 0)
    pids = {name: int((tmp_path / name).read_text()) for name in ("child", "daemon", "orphan")}
    assert not [name for name, pid in pids.items() if is_alive(pid)]


def test_a_large_process_left_behind_has_ended_before_its_job(either_site: Site, tmp_path: Path) -> None:
    """It loses its environment, so the mark of its job, before the kernel has freed its memory."""
    program = "import os; x = bytearray(b'x') * (400 << 20); print(os.getpid(), flush=True); input()"
    script = """
    mkfifo "$1/never"
    setsid "$2" -I -S -c "$3" >"$1/large" <>"$1/never" &
    until [ -s "$1/large" ]; do sleep 0.02; done
    """
    info = either_site.ended(either_site.sh(script, str(tmp_path), sys.executable, program, memory_gb=1))
    assert (info.status, info.exit_code) == (JobStatus.COMPLETED, 0)
    assert not is_alive(int((tmp_path / "large").read_text()))


def test_without_a_directory_for_its_record_a_job_fails_with_words(site: Site) -> None:
    gate = site.root / "go"
    request = site.request("/bin/sh", "-c", 'rm -r "$1"; until [ -e "$2" ]; do sleep 0.02; done', "sh", "", str(gate))
    attempt = Path(request.workspace_dir).parent
    request = site.request(*request.execution_command[:4], str(attempt), str(gate), name=request.job_name)
    [job_id] = site.submit(request)
    wait_until(lambda: not attempt.exists(), what="the attempt to be removed")
    gate.touch()
    info = site.ended(job_id)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.EXIT_RECORD_MISSING)
    assert info.message is not None
    assert str(attempt) in info.message


def test_unreadable_record_after_a_restart(site: Site) -> None:
    request = site.request("true")
    [job_id] = site.submit(request)
    site.ended(job_id)
    site.kill_supervisor()
    Path(site.files(request).record).write_text('{"version": 1, "exit_co')
    info = site.backend.get_status(job_id)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.EXIT_RECORD_UNREADABLE)


def test_logs_while_running_and_after(site: Site) -> None:
    gate = site.root / "go"
    job_id = site.sh('echo before; echo problem >&2; until [ -e "$1" ]; do sleep 0.02; done; echo after', str(gate))
    wait_for(lambda: "before" in site.backend.get_logs(job_id), what="the first line")
    assert site.backend.get_status(job_id).status is JobStatus.RUNNING
    gate.touch()
    site.ended(job_id)
    assert site.backend.get_logs(job_id) == "before\nafter\nproblem\n"
    assert site.backend.tail_logs(job_id, lines=1) == "after\n"
    assert site.backend.tail_logs(job_id, stream="stderr") == "problem\n"


def test_usage_while_running_and_none_after(site: Site) -> None:
    job_id = site.sh("sleep 1000 & while :; do :; done")

    def look() -> ResourceUsage | None:
        usage = site.backend.get_resource_usage(job_id)
        return usage if usage is not None and (usage.cpu_seconds or 0) > 0.1 else None

    usage = wait_for(look, what="CPU time")
    assert usage.processes is not None
    assert usage.processes >= 3
    assert usage.memory_gb is not None
    assert 0 < usage.memory_gb < 0.1
    site.backend.cancel(job_id)
    site.ended(job_id)
    assert site.backend.get_resource_usage(job_id) is None
    assert site.backend.get_resource_usage("no-such-job") is None


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", '{"pid":1,"began":-1e300', '{"pid":1e999,"began":1}', '{"pid":1,"began":1,"exit_code":"x"}'],
)
def test_a_part_that_a_program_has_replaced_shows_no_end(tmp_path: Path, text: str) -> None:
    files = AttemptFiles.of(f"{tmp_path}/workspace", "job")
    Path(files.record_part).write_text(text)
    part = read_part(files)
    assert part is not None
    assert (part.pid, part.began, part.exit_code) == (None, None, None)
