"""Supervisors and workers come and go; jobs neither get lost nor run twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from ccat_workflow_manager.hpc.supervisor.index import INDEX_NAME
from ccat_workflow_manager.hpc.supervisor.wire import PROTOCOL
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from tests.backends.local.site import Site, is_alive
from tests.support.waiting import PATIENCE, wait_for, wait_until

_PAUSE = Event()
HOLD = 'echo start >> "$1"; until [ -e "$2" ]; do sleep 0.02; done; exit "$3"'


def test_jobs_survive_the_supervisor(either_site: Site) -> None:
    site = either_site
    starts, gate = site.root / "starts", site.root / "go"
    running = [site.sh(HOLD, str(starts) + str(code), str(gate), str(code), cpu=1) for code in (0, 3)]
    waiting = [site.sh(HOLD, str(starts) + str(code), str(gate), str(code), cpu=1) for code in (4, 5)]
    for job_id in running:
        site.until(job_id, JobStatus.RUNNING)
    wait_until(lambda: Path(f"{starts}0").exists() and Path(f"{starts}3").exists(), what="the programs to start")
    first = site.pid
    site.kill_supervisor()
    assert [info.status for info in site.backend.get_statuses(running).values()] == [JobStatus.RUNNING] * 2
    assert [info.status for info in site.backend.get_statuses(waiting).values()] == [JobStatus.PENDING] * 2
    assert site.pid != first
    usage = site.backend.get_resource_usage(running[0])
    assert usage is not None
    assert usage.processes
    gate.touch()
    infos = site.all_ended([*running, *waiting])
    assert [info.exit_code for info in infos] == [0, 3, 4, 5]
    assert all(info.wall_time_seconds is not None and info.started_at and info.finished_at for info in infos)
    for code in (0, 3, 4, 5):
        assert Path(f"{starts}{code}").read_text() == "start\n"


def test_jobs_that_end_without_a_supervisor(site: Site) -> None:
    gate = site.root / "go"
    requests = [
        site.request("/bin/sh", "-c", HOLD, "sh", str(site.root / f"s{code}"), str(gate), str(code))
        for code in (0, 7, 137)
    ]
    ids = site.submit(*requests)
    wait_until(lambda: all((site.root / f"s{code}").exists() for code in (0, 7, 137)), what="the programs to start")
    site.kill_supervisor()
    gate.touch()
    # Each script publishes its record alone.
    records = [Path(site.files(request).record) for request in requests]
    wait_until(lambda: all(record.exists() for record in records), what="the records")
    alone = [parse_exit_record(record.read_text()) for record in records]
    assert [record.exit_code for record in alone] == [0, 7, 137]
    assert all(record.cpu_seconds is not None and record.wall_time_seconds is not None for record in alone)
    infos = list(site.backend.get_statuses(ids).values())
    infos = site.all_ended(ids)
    assert [(info.status, info.exit_code, info.signal) for info in infos] == [
        (JobStatus.COMPLETED, 0, None),
        (JobStatus.FAILED, 7, None),
        (JobStatus.FAILED, 137, 9),
    ]
    # The next supervisor has added what it knows.
    assert all(parse_exit_record(record.read_text()).finished_at is not None for record in records)


def test_killed_again_and_again(site: Site) -> None:
    """Whenever the supervisor is killed, every job runs exactly once and its end is known."""
    starts = site.root / "starts"
    starts.mkdir(parents=True)
    requests = [
        site.request("/bin/sh", "-c", 'echo x >> "$1"; sleep 0.0$2; exit "$2"', "sh", str(starts / f"{n}"), f"{n % 7}")
        for n in range(120)
    ]
    ids = site.submit(*requests)

    def ended() -> int:
        return sum(info.finished for info in site.backend.get_statuses(ids).values())

    for number in range(12):
        wait_for(partial(_at_least, ended, 9 * number), what=f"progress after {number} kills")
        site.kill_supervisor()
    infos = site.all_ended(ids)
    assert [info.exit_code for info in infos] == [n % 7 for n in range(120)]
    assert {path.read_text() for path in starts.iterdir()} == {"x\n"}
    assert len(list(starts.iterdir())) == 120


def _at_least(count: Callable[[], int], wanted: int) -> bool:
    return count() >= wanted


def test_a_script_that_has_claimed_is_not_run_again(site: Site, tmp_path: Path) -> None:
    """The supervisor was killed between starting a script and seeing it: of two scripts only one runs the command."""
    gate = tmp_path / "go"
    request = site.request("/bin/sh", "-c", HOLD, "sh", str(tmp_path / "starts"), str(gate), "5", cpu=2)
    blocker = site.run("sleep", "1000", cpu=2)
    [job_id] = site.submit(request)
    site.until(job_id, JobStatus.PENDING)
    # What the supervisor before would have started.
    early = subprocess.Popen(
        ["/bin/sh", site.files(request).script], env={"PATH": os.environ["PATH"], "CCAT_WM_JOB": job_id}
    )
    wait_until((tmp_path / "starts").exists, what="the early script to run the command")
    site.backend.cancel(blocker)
    site.until(job_id, JobStatus.RUNNING)
    gate.touch()
    assert early.wait(PATIENCE) == 5
    assert site.ended(job_id).exit_code == 5
    assert (tmp_path / "starts").read_text() == "start\n"


def test_cancel_after_the_supervisor_was_killed(either_site: Site, tmp_path: Path) -> None:
    script = 'setsid sh -c \'trap "" TERM; echo $$ > "$1"; while :; do sleep 1000; done\' sh "$1" & wait'
    job_id = either_site.sh(script, str(tmp_path / "pid"))
    written = tmp_path / "pid"
    pid = int(wait_for(lambda: (written.exists() and written.read_text()) or None, what="the pid"))
    either_site.kill_supervisor()
    either_site.backend.cancel(job_id)
    assert either_site.ended(job_id).status is JobStatus.CANCELLED
    assert not is_alive(pid)


def test_a_stop_goes_on_under_the_next_supervisor(make_site: Callable[..., Site]) -> None:
    site = make_site(grace=3)
    job_id = site.sh('trap "" TERM; echo on; while :; do sleep 0.01; done')
    queued = site.run("true", cpu=2)
    wait_until(lambda: "on" in site.backend.get_logs(job_id), what="the program to start")
    site.backend.cancel(job_id)
    site.kill_supervisor()
    assert site.ended(job_id).status is JobStatus.CANCELLED
    assert site.ended(queued).status is JobStatus.COMPLETED


def test_time_limit_after_the_supervisor_was_killed(site: Site) -> None:
    job_id = site.run("sleep", "1000", seconds=5)
    site.until(job_id, JobStatus.RUNNING)
    site.kill_supervisor()
    info = site.ended(job_id)
    assert info.reason is FailureReason.TIME_LIMIT
    assert info.wall_time_seconds is not None
    assert 4.9 < info.wall_time_seconds < PATIENCE


def test_the_whole_job_killed_without_a_supervisor(site: Site) -> None:
    job_id = site.sh("echo $PPID; exec sleep 1000")
    wait_until(lambda: site.backend.get_logs(job_id).endswith("\n"), what="the pid of the script")
    script = int(site.backend.get_logs(job_id))
    site.kill_supervisor()
    os.kill(script, signal.SIGKILL)
    info = site.ended(job_id)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.EXIT_RECORD_MISSING)


def test_the_machine_was_started_anew(site: Site) -> None:
    starts, gate = site.root / "starts", site.root / "go"
    ran = site.sh(HOLD, str(starts), str(gate), "0", cpu=2)
    waits = site.run("true", cpu=2)
    wait_until(starts.exists, what="the program to start")
    site.kill_supervisor()

    def killed() -> bool:
        pids = process_tree.marked(ran, process_tree.table())
        # The script first, lest it writes down how its command ended.
        process_tree.send(signal.SIGKILL, sorted(pids))
        return not pids

    wait_until(killed, what="the job to be gone")
    index = site.state_dir / INDEX_NAME
    entries = [{**json.loads(line), "boot": "another"} for line in index.read_text().splitlines()]
    index.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    info = site.ended(ran)
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.NODE_FAILURE)
    assert site.ended(waits).status is JobStatus.COMPLETED


def test_the_worker_dies(site: Site) -> None:
    """The process that has submitted is killed with its whole process group; the job and its supervisor go on."""
    gate = site.root / "go"
    held = ["/bin/sh", "-c", HOLD, "sh", str(site.root / "starts"), str(gate), "6"]
    request = site.request(*held)
    program = f"""
import signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from ccat_workflow_manager.hpc.attempt import process_tree
from tests.backends.local.site import Site
site = Site(Path({str(site.root)!r}))
print(site.backend.submit_many([site.request(*{held!r}, name={request.job_name!r})])[0])
sys.stdout.flush()
signal.pause()
"""
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, process_group=0)
    assert worker.stdout is not None
    job_id = worker.stdout.readline().strip()
    site.ids.append(job_id)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    gate.touch()
    assert site.ended(job_id).exit_code == 6


def test_submitting_twice_adopts(site: Site) -> None:
    request = site.request("/bin/sh", "-c", 'echo x >> "$1"', "sh", str(site.root / "runs"))
    [first] = site.submit(request)
    [again] = site.submit(request)
    site.ended(first)
    [later] = site.submit(request)
    site.kill_supervisor()
    [after] = site.submit(request)
    assert first == again == later == after == site.backend.find(request.job_name)
    assert (site.root / "runs").read_text() == "x\n"


def test_cleanup_forgets(site: Site) -> None:
    request = site.request("true")
    [job_id] = site.submit(request)
    busy = site.run("sleep", "1000")
    site.ended(job_id)
    site.backend.cleanup_many([job_id, busy, "no-such-job"])
    assert site.backend.get_status(job_id).status is JobStatus.UNKNOWN
    assert site.backend.find(request.job_name) is None
    assert site.backend.get_status(busy).status is JobStatus.RUNNING
    site.kill_supervisor()
    assert site.backend.get_status(job_id).status is JobStatus.UNKNOWN
    assert site.backend.get_status(busy).status is JobStatus.RUNNING
    assert [json.loads(line)["id"] for line in (site.state_dir / INDEX_NAME).read_text().splitlines()] == [busy]
    assert Path(site.files(request).record).exists()


def test_idle_supervisor_leaves_and_another_comes(make_site: Callable[..., Site]) -> None:
    site = make_site(idle_exit=0.3)
    job_id = site.run("true")
    site.ended(job_id)
    pid = site.pid
    assert is_alive(pid)
    site.backend.close()
    wait_until(lambda: not is_alive(pid), what="the idle supervisor to leave")
    assert not (site.state_dir / "supervisor.sock").exists()
    assert site.backend.get_status(job_id).status is JobStatus.COMPLETED
    assert site.pid != pid


def test_clients_meet_a_leaving_supervisor(make_site: Callable[..., Site]) -> None:
    """Requests that arrive while the supervisor leaves are asked again, and done once."""
    site = make_site(idle_exit=0.01)
    ids = []
    for _ in range(30):
        ids += site.submit(site.request("true"))
        site.ended(ids[-1])
        site.backend.close()
    assert {info.status for info in site.all_ended(ids)} == {JobStatus.COMPLETED}


def test_idle_supervisor_does_nothing(site: Site) -> None:
    site.ended(site.run("true"))
    pid = site.pid

    def switches() -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    def rests() -> bool:
        before = switches()
        _PAUSE.wait(1.5)
        return switches() - before <= 2

    wait_until(rests, what="the supervisor to rest")


def test_an_older_supervisor_makes_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = site.root / "go"
    job_id = site.sh(HOLD, str(site.root / "starts"), str(gate), "2")
    site.until(job_id, JobStatus.RUNNING)
    pid = site.pid
    hello = site.backend._link.converse()
    monkeypatch.setattr("ccat_workflow_manager.hpc.supervisor.link.PROTOCOL", PROTOCOL + 1)
    newer = site.another()
    with pytest.raises(Exception, match="does not answer"):
        # Its successor is of the same age here, so this client is never content; but the first one has made room.
        newer.get_status(job_id)
    monkeypatch.undo()
    hello.hang_up()
    wait_until(lambda: not is_alive(pid), what="the older supervisor to leave")
    site.backend.close()
    assert site.backend.get_status(job_id).status is JobStatus.RUNNING
    gate.touch()
    assert site.ended(job_id).exit_code == 2


def test_a_job_that_has_its_record_is_not_run_again(site: Site) -> None:
    """Even when the supervisor no longer knows its name."""
    request = site.request("/bin/sh", "-c", 'echo x >> "$1"; exit 3', "sh", str(site.root / "runs"))
    [first] = site.submit(request)
    info = site.ended(first)
    site.backend.cleanup(first)
    [second] = site.submit(request)
    again = site.ended(second)
    assert first != second
    assert (again.exit_code, again.finished_at, again.peak_memory_gb) == (3, info.finished_at, info.peak_memory_gb)
    assert (site.root / "runs").read_text() == "x\n"


def test_a_supervisor_that_hangs_is_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, starts = site.root / "go", site.root / "starts"
    job_id = site.sh(HOLD, str(starts), str(gate), "4")
    site.until(job_id, JobStatus.RUNNING)
    hangs = site.pid
    monkeypatch.setattr("ccat_workflow_manager.hpc.supervisor.link.ANSWER_SECONDS", 0.3)
    os.kill(hangs, signal.SIGSTOP)
    other = site.another()
    with pytest.raises(BackendUnavailable, match="has not answered"):
        other.get_status(job_id)
    monkeypatch.undo()
    wait_until(lambda: not is_alive(hangs), what="the one that hangs to be gone")
    assert site.backend.get_status(job_id).status is JobStatus.RUNNING
    assert site.pid != hangs
    gate.touch()
    assert site.ended(job_id).exit_code == 4
    assert starts.read_text().count("\n") == 1


def test_a_holder_of_the_lock_without_a_socket_is_replaced(site: Site) -> None:
    job_id = site.run("true")
    site.ended(job_id)
    hangs = site.pid
    os.kill(hangs, signal.SIGSTOP)
    (site.state_dir / "supervisor.sock").unlink()
    assert site.another().get_status(job_id).status is JobStatus.COMPLETED
    wait_until(lambda: not is_alive(hangs), what="the one that hangs to be gone")


def test_a_supervisor_whose_directory_was_made_again_ends(site: Site) -> None:
    site.ended(site.run("true"))
    first = site.pid
    shutil.rmtree(site.state_dir)
    second = site.another()
    [job_id] = map(str, second.submit_many([site.request("true")]))
    assert site.pid != first
    wait_until(lambda: not is_alive(first), 20, "the supervisor without a directory to end")
    assert second.get_status(job_id).status is not JobStatus.UNKNOWN
    assert is_alive(site.pid)
    assert (site.state_dir / "supervisor.sock").exists()
    second.close()
