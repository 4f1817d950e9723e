"""Runs in pilots, through every process of a deployment with one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.demo import demo_pipeline
from tests.support import leftovers
from tests.support.fixtures_radical import START_SECONDS
from tests.support.fixtures_service import Service, _make
from tests.support.reaper import Reaper
from tests.support.waiting import wait_for, wait_until

pytestmark = [pytest.mark.needs("radical"), pytest.mark.timeout(START_SECONDS + 120)]
SH = ["/bin/sh", "-c"]


def sh(text: str, name: str = "only", **more: Any) -> dict[str, Any]:
    return {"name": name, "command": [*SH, text], **more}


@pytest.fixture(scope="module")
def deployment(reaper: Reaper) -> Iterator[Service]:
    service = _make(
        reaper, HPC_BACKEND="radical_pilot", RADICAL_PILOT_CORES="8", WORKERS="1", FOLLOW_SECONDS="1", LOG_LIMIT_MB="1"
    )
    yield service
    service.close()


def test_a_pipeline_waits_for_the_pilot_and_runs_in_it(deployment: Service) -> None:
    keys = [str(n) for n in range(12)]
    run_id = deployment.submit(
        sh('echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/key"', "many", foreach=keys, resources={"memory_gb": 0.1}),
        sh('cat "$WORKFLOW_UPSTREAM_DIR"/many/*/key | wc -l > "$WORKFLOW_OUTPUT_DIR/n"', "gather", depends_on=["many"]),
    )  # fmt: skip
    wait_until(
        lambda: deployment.step(run_id, "many", "3")["waiting_for"] == "the pilot is starting", 30, "the reason to wait"
    )
    run = deployment.wait(run_id, START_SECONDS)
    assert run["status"] == "COMPLETED", run
    assert (deployment.attempt_dir(run_id, "gather") / "output" / "n").read_text().strip() == "12"
    assert all(step["attempt"] == 1 for step in run["step_runs"])


def test_a_failure_a_retry_and_the_logs(deployment: Service) -> None:
    text = '[ "$WORKFLOW_ATTEMPT" = 2 ] || { echo broken >&2; exit 3; }; echo done > "$WORKFLOW_OUTPUT_DIR/a"'
    run_id = deployment.submit(
        sh(text, retry={"max_attempts": 2, "backoff_seconds": 0, "on": ["program_failed"]}),
        sh('cat "$WORKFLOW_UPSTREAM_DIR/only/main/a"', "after", depends_on=["only"]),
    )
    assert deployment.wait(run_id)["status"] == "COMPLETED"
    step = deployment.step(run_id, "only")
    first, second = deployment.call("GET", f"/step-runs/{step['id']}/attempts")["items"]
    assert (first["reason"], first["exit_code"], second["reason"]) == ("program_failed", 3, None)
    url = f"/step-runs/{step['id']}/log?attempt=1&stream=stderr"
    assert deployment.client.get(url).text == "broken\n"


CASES: list[tuple[dict[str, Any], str, str]] = [
    (sh("kill -9 $$"), "killed_by_signal", "signal 9"),
    ({"name": "only", "command": ["/no/such/program"]}, "command_not_found", "command"),
    (sh("true", resources={"partition": "nowhere"}), "rejected", "nowhere"),
    (sh("true", resources={"gpu": 1}), "rejected", "RADICAL_PILOT_GPUS"),
    (sh("exec sleep 1000", resources={"time_hours": 0.0003}), "time_limit", "time limit"),
    (sh("head -c 3000000 /dev/zero; exec sleep 1000"), "log_limit", "LOG_LIMIT_MB allows 1"),
]


def test_every_end_has_a_name_and_words(deployment: Service) -> None:
    runs = [deployment.submit({"retry": {"max_attempts": 1}, **step}) for step, _, _ in CASES]
    for run_id, (_, reason, words) in zip(runs, CASES, strict=True):
        deployment.wait(run_id)
        found = deployment.step(run_id, "only")
        assert (found["status"], found["reason"]) == ("FAILED", reason), found
        assert words.lower() in found["reason_text"].lower()


def test_cancel(deployment: Service) -> None:
    run_id = deployment.submit(sh("sleep 1000 & exec sleep 1000"))
    deployment.wait_step(run_id, "only", lambda step: step["status"] == "RUNNING")
    deployment.call("POST", f"/runs/{run_id}/cancel")
    assert deployment.wait(run_id)["status"] == "CANCELLED"


def test_the_demo(deployment: Service) -> None:
    run = deployment.wait(deployment.call("POST", "/runs", json={"spec": demo_pipeline(None)})["id"], 110)
    assert run["status"] == "COMPLETED", run


def test_the_death_of_a_pilot_is_nobodys_failure(deployment: Service, tmp_path: Path) -> None:
    """What ran is tried again, what waited has lost nothing, and the next pilot runs both."""
    marks = [tmp_path / f"ran-{n}" for n in range(9)]
    script = "echo once >> '{}'; [ \"$WORKFLOW_ATTEMPT\" = 2 ] || exec sleep 1000"
    eight = [
        deployment.submit(sh(script.format(mark), retry={"max_attempts": 2, "backoff_seconds": 0}))
        for mark in marks[:8]
    ]
    for run_id in eight:
        deployment.wait_step(run_id, "only", lambda step: step["status"] == "RUNNING")
    waiting = deployment.submit(sh(f"echo once >> '{marks[8]}'"))
    deployment.wait_step(waiting, "only", lambda step: "places of the pilot" in (step["waiting_for"] or ""))
    agent = wait_for(
        lambda: next((each for each in leftovers.processes(deployment.directory) if each.name() == "rp.agent.0"), None)
    )
    os.kill(agent.pid, signal.SIGKILL)
    for run_id in (*eight, waiting):
        assert deployment.wait(run_id, START_SECONDS)["status"] == "COMPLETED"
    step = deployment.step(eight[0], "only")
    first, second = deployment.call("GET", f"/step-runs/{step['id']}/attempts")["items"]
    assert (first["reason"], second["reason"]) == ("backend_failed", None)
    assert deployment.step(waiting, "only")["attempt"] == 1
    assert [mark.read_text() for mark in marks] == ["once\nonce\n"] * 8 + ["once\n"]


def test_a_killed_worker_takes_its_pilot_with_it(deployment: Service) -> None:
    pilots = sorted((deployment.directory / "data" / "backends" / "radical_pilot" / "pilots").iterdir())
    assert leftovers.processes(pilots[-1])
    deployment.kill()
    wait_until(lambda: not leftovers.processes(pilots[-1]), 30, "the end of the pilot")
