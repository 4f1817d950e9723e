"""The program that runs one job on a node, without any pilot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from ccat_workflow_manager.hpc.radical_pilot.job import PilotJob
from ccat_workflow_manager.hpc.radical_pilot.pilot import Pilots
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

PILOT = "pilot-1"
Start = Callable[..., subprocess.Popen[bytes]]
AWKWARD = 'it\'s "here" $(place) ;é'


@pytest.fixture
def job(tmp_path: Path) -> PilotJob:
    """Its name differs from that of any other test: its processes are found by it, on the whole machine."""
    workspace = tmp_path / AWKWARD / "workspace"
    workspace.mkdir(parents=True)
    limits = Limits(time_seconds=60, kill_grace_seconds=0.5)
    return PilotJob(f"ccat-{uuid4().hex}-1", str(workspace), 1, 0, limits, 0, 0.0, PILOT)


@pytest.fixture
def pilots(tmp_path: Path) -> Pilots:
    found = Pilots(tmp_path / "state")
    found.create(PILOT)
    return found


@pytest.fixture
def start(job: PilotJob, pilots: Pilots, tmp_path: Path, reaper: Reaper) -> Iterator[Start]:
    """Starts a shell line as a pilot does."""
    started = []

    def run(text: str, job: PilotJob = job) -> subprocess.Popen[bytes]:
        script = render_job_script(
            ["/bin/sh", "-c", text], environment={}, cwd=job.workspace, files=job.files, supervised=True
        )
        write_script(job.files, script)
        file = tmp_path / "job"
        file.write_text(json.dumps(asdict(job)))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", pilots.program(PILOT), file, pilots.path(PILOT)],
            start_new_session=True,
            env={"CUDA_VISIBLE_DEVICES": "1,3", "RP_SECRET": "no", "HOME": "/pilot"},
            stderr=subprocess.PIPE,
        )
        reaper.watch(process.pid)
        started.append(process)
        return process

    reaper.kill_marked(f"CCAT_WM_JOB={job.job_id}")
    yield run
    for process in started:
        process.kill()
        process.communicate()


def living(job: PilotJob) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CCAT_WM_JOB") == job.job_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def record_of(job: PilotJob) -> ExitRecord:
    wait_until(Path(job.files.record).exists, 30, "the record")
    return parse_exit_record(Path(job.files.record).read_text())


def is_up(job: PilotJob) -> None:
    wait_until((Path(job.workspace) / "up").exists, 20, "the program to start")


def test_exit_code_and_environment_arrive(job: PilotJob, start: Start) -> None:
    assert start("env; exit 3").wait(PATIENCE) == 0
    assert record_of(job).exit_code == 3
    seen = dict(line.split("=", 1) for line in Path(job.files.stdout).read_text().splitlines())
    assert seen["HOME"] != "/pilot"
    assert seen["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert not any(name.startswith("RP_") for name in seen)
    claim = claims.read(job.files)
    assert claim is not None
    assert (claim.owner, claim.host) == (PILOT, os.uname().nodename)


def test_an_attempt_runs_once(job: PilotJob, start: Start) -> None:
    assert start("echo once >> ran").wait(PATIENCE) == 0
    assert start("echo once >> ran").wait(PATIENCE) == NOT_STARTED
    assert (Path(job.workspace) / "ran").read_text() == "once\n"


def test_a_cancelled_attempt_does_not_run(job: PilotJob, start: Start) -> None:
    assert claims.block(job.files, "cancelled")
    assert start("touch ran").wait(PATIENCE) == NOT_STARTED
    assert not (Path(job.workspace) / "ran").exists()


def test_a_node_that_does_not_see_the_attempt_names_its_path(job: PilotJob, start: Start, tmp_path: Path) -> None:
    process = start("true", replace(job, workspace=str(tmp_path / "here" / "workspace")))
    process.wait(PATIENCE)
    elsewhere = tmp_path / "job"
    elsewhere.write_text(json.dumps(asdict(replace(job, workspace="/nowhere/workspace"))))
    done = subprocess.run(process.args, capture_output=True, text=True, check=False)
    assert done.returncode not in (0, NOT_STARTED)
    assert "/nowhere" in done.stderr.splitlines()[-1]


def test_a_cancel_ends_the_whole_tree(job: PilotJob, start: Start) -> None:
    stubborn = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000 & wait' & touch up; while :; do sleep 1; done"
    process = start(stubborn)
    is_up(job)
    claims.request_cancel(job.files, 1.0)
    process.wait(PATIENCE)
    assert record_of(job).stopped_by == "cancel"
    wait_until(lambda: not living(job), 10, "the end of all processes")


def test_the_time_limit(job: PilotJob, start: Start) -> None:
    start("exec sleep 1000", replace(job, limits=replace(job.limits, time_seconds=1))).wait(PATIENCE)
    assert record_of(job).stopped_by == "time_limit"


def test_the_agent_ends_the_jobs_of_its_pilot(job: PilotJob, start: Start, pilots: Pilots) -> None:
    process = start("touch up; exec sleep 1000")
    is_up(job)
    pilots.end(PILOT)
    process.wait(PATIENCE)
    assert record_of(job).stopped_by == "carrier_lost"


def test_a_silent_agent_ends_the_job(job: PilotJob, start: Start, pilots: Pilots) -> None:
    program = pilots.path(PILOT) / "run" / "ccat_workflow_manager" / "hpc" / "radical_pilot" / "job_process.py"
    program.write_text(program.read_text().replace("SILENT_SECONDS = 60", "SILENT_SECONDS = 1"))
    start("exec sleep 1000").wait(PATIENCE)
    assert record_of(job).stopped_by == "carrier_lost"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_pilot_that_kills_its_task_stops_the_job(job: PilotJob, start: Start, number: signal.Signals) -> None:
    process = start("touch up; exec sleep 1000")
    is_up(job)
    os.killpg(process.pid, number)
    process.wait(PATIENCE)
    record = record_of(job)
    assert (record.stopped_by, record.exit_code) == ("carrier_lost", None)
    wait_until(lambda: not living(job), 10, "the end of all processes")


def test_a_killed_job_process_leaves_a_record(job: PilotJob, start: Start) -> None:
    process = start("touch up; exec sleep 1000")
    is_up(job)
    [runner] = {script.parent() for script in living(job)} - {psutil.Process(each.pid) for each in living(job)}
    assert runner is not None
    runner.kill()
    process.wait(PATIENCE)
    assert record_of(job).exit_code is None
    wait_until(lambda: not living(job), 10, "the end of all processes")
