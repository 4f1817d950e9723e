"""Runs in pilots, through every process of a deployment with one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.hpc.radical_pilot.pilot import Pilots
from tests.support import leftovers
from tests.support.fixtures_radical import START_SECONDS
from tests.support.fixtures_service import Service, running_service, sh
from tests.support.reaper import Reaper
from tests.support.waiting import wait_for, wait_until

pytestmark = pytest.mark.needs("radical")


@pytest.fixture(scope="module")
def deployment(reaper: Reaper) -> Iterator[Service]:
    pilot = {"RADICAL_PILOT_TRUSTED_NETWORK": "true", "RADICAL_PILOT_CORES": "8"}
    settings = {"WORKERS": "1", "FOLLOW_SECONDS": "1", "LOG_LIMIT_MB": "1"}
    with running_service(reaper, HPC_BACKEND="radical_pilot", **pilot, **settings) as service:
        yield service


@pytest.mark.slow
def test_a_pipeline_waits_for_the_pilot_and_runs_in_it(deployment: Service) -> None:
    keys = [str(n) for n in range(12)]
    run_id = deployment.submit(sh("true", "many", foreach=keys, resources={"memory_gb": 0.1}))
    wait_until(
        lambda: deployment.step(run_id, "many", "3")["waiting_for"] == "the pilot is starting", 30, "the reason to wait"
    )
    run = deployment.wait(run_id, START_SECONDS)
    assert run["status"] == "COMPLETED", run
    assert all(step["attempt"] == 1 for step in run["step_runs"])


CASES: list[tuple[dict[str, Any], str, str]] = [
    (sh("true", resources={"partition": "nowhere"}), "rejected", "nowhere"),
    (sh("true", resources={"gpu": 1}), "rejected", "RADICAL_PILOT_GPUS"),
    (sh("exec sleep 1000", resources={"time_hours": 0.0003}), "time_limit", "still running"),
    (sh("head -c 3000000 /dev/zero; exec sleep 1000"), "log_limit", "LOG_LIMIT_MB allows 1"),
]


@pytest.mark.slow
def test_every_end_has_a_name_and_words(deployment: Service) -> None:
    runs = [deployment.submit({"retry": {"max_attempts": 1}, **step}) for step, _, _ in CASES]
    for run_id, (_, reason, words) in zip(runs, CASES, strict=True):
        deployment.wait(run_id)
        found = deployment.step(run_id, "only")
        assert (found["status"], found["reason"]) == ("FAILED", reason), found
        assert words.lower() in found["reason_text"].lower()


@pytest.mark.slow
def test_the_death_of_a_pilot_fails_no_step(deployment: Service, tmp_path: Path) -> None:
    """What ran is tried again, what waited has lost nothing, and the next pilot runs both."""
    marks = [tmp_path / f"ran-{n}" for n in range(9)]
    script = "echo once >> '{}'; [ \"$WORKFLOW_ATTEMPT\" = 2 ] || exec sleep 1000"
    eight = [
        deployment.submit(sh(script.format(mark), retry={"max_attempts": 2, "backoff_seconds": 0}))
        for mark in marks[:8]
    ]
    for run_id in eight:
        deployment.wait_running(run_id)
    waiting = deployment.submit(sh(f"echo once >> '{marks[8]}'"))
    deployment.wait_step(waiting, "only", lambda step: "slots of the pilot" in (step["waiting_for"] or ""))
    agent = wait_for(
        lambda: next((each for each in leftovers.processes(deployment.directory) if each.name() == "rp.agent.0"), None)
    )
    os.kill(agent.pid, signal.SIGKILL)
    for run_id in (*eight, waiting):
        assert deployment.wait(run_id, START_SECONDS)["status"] == "COMPLETED"
    first, second = deployment.attempts(deployment.step(eight[0], "only"))
    assert (first["reason"], second["reason"]) == ("backend_failed", None)
    assert deployment.step(waiting, "only")["attempt"] == 1
    assert [mark.read_text() for mark in marks] == ["once\nonce\n"] * 8 + ["once\n"]


@pytest.mark.slow
def test_a_killed_worker_takes_its_pilot_with_it(deployment: Service) -> None:
    pilots = Pilots(deployment.directory / "data" / "backends" / "radical_pilot")
    last = pilots.path(pilots.states.ids()[-1])
    assert leftovers.processes(last)
    deployment.kill()
    wait_until(lambda: not leftovers.processes(last), 30, "the end of the pilot")
