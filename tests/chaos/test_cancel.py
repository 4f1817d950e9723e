"""Cancel ends: in every state, twice, with programs that do not want to, with a worker that is no more."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ccat_workflow_manager.lifecycle.states import Status
from tests.chaos.judging import require_all_is_well
from tests.support.fixtures_service import Service, ServiceMaker
from tests.support.waiting import wait_for, wait_until

START = 'echo started >> "$WORKFLOW_WORKSPACE_DIR/starts"'
FOR_EVER = "while :; do sleep 0.1; done"
PROGRAMS = {
    "willing": f"{START}; exec sleep 1000",
    "ignores SIGTERM": f"{START}; trap '' TERM INT HUP; {FOR_EVER}",
    "child in its own session": f"{START}; setsid sh -c \"trap '' TERM; {FOR_EVER}\" & setsid sleep 1000 & {FOR_EVER}",
    "orphan": f"{START}; (setsid sh -c '{FOR_EVER}' &) ; {FOR_EVER}",
}


@pytest.mark.parametrize("backend", ["local", "concurrent"])
def test_no_program_outlives_its_cancel(service: Service, backend: str) -> None:
    run_ids = {}
    for name, text in PROGRAMS.items():
        # One after the other: the pool of `concurrent` may be smaller than the list.
        run_id = service.submit({"name": "only", "backend": backend, "command": ["/bin/sh", "-c", text]})
        run_ids[name] = run_id
        service.wait_step(run_id, "only", lambda step: step["status"] == "RUNNING")
        wait_until((service.attempt_dir(run_id, "only") / "workspace" / "starts").exists, 20, "the program to start")
        service.call("POST", f"/runs/{run_id}/cancel")
        service.call("POST", f"/runs/{run_id}/cancel")
        assert service.wait(run_id)["status"] == "CANCELLED", name
    wait_until(lambda: not survivors(list(run_ids.values())), 15, "all processes to end")


def survivors(run_ids: list[str]) -> list[str]:
    """The processes that work for one of these runs."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            traces = Path(f"/proc/{name}/environ").read_bytes() + Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if any(run_id.encode() in traces for run_id in run_ids):
            found.append(name)
    return found


def test_cancel_in_every_state_ends_in_cancelled(service: Service) -> None:
    """Whatever a step run is doing when the wish comes."""
    states = set()
    run_ids = []
    for number in range(12):
        run_id = service.submit({"name": "only", "command": ["/bin/sh", "-c", f"{START}; sleep 1000"]})
        # A little later each time, so that the wish meets claim, staging, submission and start.
        for _ in range(number):
            states.add(service.step(run_id, "only")["status"])
        service.call("POST", f"/runs/{run_id}/cancel")
        run_ids.append(run_id)
    for run_id in run_ids:
        assert service.wait(run_id)["status"] == "CANCELLED"
    assert states <= set(Status)
    wait_until(lambda: not survivors(run_ids), 15, "all processes to end")


def test_what_waits_is_cancelled_at_once(service: Service) -> None:
    sleeping = {"name": "first", "command": ["/bin/sleep", "1000"]}
    run_id = service.submit(sleeping, {"name": "second", "command": ["/bin/true"], "depends_on": ["first"]})
    service.wait_step(run_id, "first", lambda step: step["status"] == "RUNNING")
    service.call("POST", f"/runs/{run_id}/cancel")
    assert service.step(run_id, "second")["status"] in ("CANCELLED", "SKIPPED")
    assert service.wait(run_id)["status"] == "CANCELLED"


def test_a_cancel_while_all_workers_are_away_is_carried_out_when_they_are_back(make_service: ServiceMaker) -> None:
    service = make_service()
    run_id = service.submit({"name": "only", "command": ["/bin/sh", "-c", f"{START}; {FOR_EVER}"]})
    service.wait_step(run_id, "only", lambda step: step["status"] == "RUNNING")
    workers = wait_for(lambda: service.worker_pids() or None)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    service.call("POST", f"/runs/{run_id}/cancel")
    assert service.step(run_id, "only")["status"] == "RUNNING"
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    assert service.wait(run_id)["status"] == "CANCELLED"
    require_all_is_well(service, [run_id])
