"""The script that a pilot starts, and the keeper that stays with the job: without any pilot."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from ccat_workflow_manager.hpc import radical_pilot
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from ccat_workflow_manager.hpc.radical_pilot import start_script
from ccat_workflow_manager.hpc.radical_pilot.start_script import NOT_MINE, NOT_VISIBLE, render_start_script
from ccat_workflow_manager.hpc.radical_pilot.store import Ticket, ask_to_stop, claim_for_nobody, claim_of, stopped_of
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

Start = Callable[..., subprocess.Popen[bytes]]
JOB = f"ccat-{uuid4().hex}-1"
"""Unlike that of any other run of the tests: its processes are found by it, on the whole machine."""
AWKWARD = 'it\'s "here" $(place) ;é'


@pytest.fixture
def ticket(tmp_path: Path) -> Ticket:
    workspace = tmp_path / AWKWARD / "workspace"
    workspace.mkdir(parents=True)
    return Ticket(JOB, str(workspace), 1, 0, 100, 60, 0, 0.0, "pilot-1")


@pytest.fixture
def start(ticket: Ticket, tmp_path: Path, reaper: Reaper) -> Iterator[Start]:
    """Start a shell line as a pilot would."""
    pilot = tmp_path / "pilot-1"
    pilot.mkdir()
    (pilot / "alive").write_text("1\n")
    (pilot / "keeper.sh").write_text((Path(str(radical_pilot.__file__)).with_name("keeper.sh")).read_text())
    started = []

    def run(text: str, ticket: Ticket = ticket) -> subprocess.Popen[bytes]:
        command = ["/bin/sh", "-c", text]
        script = render_job_script(command, environment={}, cwd=ticket.workspace, files=ticket.files)
        write_script(ticket.files, script)
        program = tmp_path / "job.start"
        program.write_text(render_start_script(ticket, home="/nowhere", grace_seconds=0.5))
        process = subprocess.Popen(
            ["/bin/sh", str(program), pilot.name, str(pilot)],
            start_new_session=True,
            env={"PATH": os.defpath, "CUDA_VISIBLE_DEVICES": "1,3", "RP_SECRET": "no", "HOME": "/pilot"},
        )
        reaper.watch(process.pid)
        started.append(process)
        return process

    reaper.kill_marked(f"CCAT_WM_JOB={JOB}")
    yield run
    for process in started:
        process.kill()
        process.wait()


def living() -> list[psutil.Process]:
    """The processes of the job, without its script."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CCAT_WM_JOB") == JOB and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def exit_code(ticket: Ticket) -> int | None:
    return parse_exit_record(Path(ticket.files.record).read_text()).exit_code


def is_up(ticket: Ticket) -> None:
    wait_until((Path(ticket.workspace) / "up").exists, 20, "the program to start")


def test_the_exit_code_and_the_environment_arrive(ticket: Ticket, start: Start) -> None:
    assert start("env; exit 3").wait(20) == 3
    assert exit_code(ticket) == 3
    seen = dict(line.split("=", 1) for line in Path(ticket.files.stdout).read_text().splitlines())
    assert seen.keys() >= {"PATH", "HOME", "LANG", "CUDA_VISIBLE_DEVICES", "CCAT_WM_JOB"}
    assert (seen["HOME"], seen["CUDA_VISIBLE_DEVICES"]) == ("/nowhere", "1,3")
    assert not any(name.startswith("RP_") for name in seen)
    claim = claim_of(ticket)
    assert claim is not None
    assert (claim.pilot, claim.node) == ("pilot-1", os.uname().nodename)


def test_an_attempt_runs_once(ticket: Ticket, start: Start) -> None:
    assert start("echo once >> ran").wait(20) == 0
    assert start("echo once >> ran").wait(20) == NOT_MINE
    assert (Path(ticket.workspace) / "ran").read_text() == "once\n"


def test_an_attempt_that_nobody_may_run_is_not_run(ticket: Ticket, start: Start) -> None:
    assert claim_for_nobody(ticket)
    assert start("touch ran").wait(20) == NOT_MINE
    assert not (Path(ticket.workspace) / "ran").exists()


def test_a_node_that_does_not_see_the_attempt_says_so(ticket: Ticket, start: Start) -> None:
    moved = Path(ticket.workspace).parent
    start("true").wait(20)
    moved.rename(moved.with_name("elsewhere"))
    program = next(moved.parent.glob("*.start"))
    done = subprocess.run(["/bin/sh", program, "pilot-1", moved.parent / "pilot-1"], capture_output=True, text=True)
    assert done.returncode == NOT_VISIBLE
    assert "cannot write" in done.stderr


STUBBORN = (
    "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000 & wait' & sleep 1000 & touch up; while :; do sleep 1; done"
)


@pytest.mark.parametrize("why", ["cancel", "pilot"])
def test_a_wish_ends_the_whole_tree(ticket: Ticket, start: Start, why: str) -> None:
    process = start(STUBBORN)
    is_up(ticket)
    ask_to_stop(ticket, why)
    ask_to_stop(ticket, "another, later")
    process.wait(30)
    wait_until(lambda: not living(), 10, "the end of all processes")
    assert stopped_of(ticket) == (why, False)
    assert exit_code(ticket) == 137


def test_the_time_limit(ticket: Ticket, start: Start) -> None:
    limited = Ticket(JOB, ticket.workspace, 1, 0, 100, 1, 0, 0.0, "pilot-1")
    start("exec sleep 1000", limited).wait(30)
    assert stopped_of(ticket) == ("time_limit", False)
    assert exit_code(ticket) == 143


def test_silence_of_the_pilot_ends_it(ticket: Ticket, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_script, "PATIENCE_SECONDS", 1)
    start("exec sleep 1000").wait(30)
    assert stopped_of(ticket) == ("pilot", False)


def test_a_pilot_that_kills_what_it_started_is_told_from_a_failure(ticket: Ticket, start: Start) -> None:
    process = start("touch up; exec sleep 1000")
    is_up(ticket)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(Path(ticket.files.record).exists, 20, "the record")
    assert stopped_of(ticket)[0] == "pilot"


def test_what_a_program_leaves_behind_ends_with_it(ticket: Ticket, start: Start) -> None:
    start("setsid sleep 1000 & exit 0").wait(20)
    wait_until(lambda: not living(), 10, "the end of what was left")
    assert exit_code(ticket) == 0
    assert stopped_of(ticket) == (None, False)


def test_a_script_that_was_killed_is_noted(ticket: Ticket, start: Start) -> None:
    process = start("touch up; exec sleep 1000")
    is_up(ticket)
    [script] = [each for each in living() if ticket.files.script in each.cmdline()]
    script.kill()
    process.wait(20)
    wait_until(lambda: stopped_of(ticket) == (None, True), 10, "the note that it is over")
    assert not living()
