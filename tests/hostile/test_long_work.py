"""What takes long, or hangs, keeps no worker from the work of others."""

from __future__ import annotations

import os
import signal

from tests.support.fixtures_service import Service, running_service, sh
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until


def test_large_results_leave_the_workers_free(service: Service) -> None:
    """Each is a minute of reading, and there are more of them than workers."""
    void = sh('truncate -s 60G "$WORKFLOW_OUTPUT_DIR/void"')
    large = [service.submit(void) for _ in range(4)]
    for run_id in large:
        service.wait_step(run_id, "only", lambda step: step["status"] == "COLLECTING_RESULTS")
    assert service.wait(service.submit(sh("true")))["status"] == "COMPLETED"
    assert {service.step(run_id, "only")["status"] for run_id in large} == {"COLLECTING_RESULTS"}
    for run_id in large:
        service.cancel(run_id)


def test_a_worker_that_does_nothing_at_all_is_killed(reaper: Reaper) -> None:
    with running_service(reaper, HANG_SECONDS="10", WORKERS="1") as service:
        [pid] = service.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: pid not in [child.pid for child in service.children()], 60, "the end of the worker")
        assert "has hung" in service.log()
        assert service.wait(service.submit(sh("true")))["status"] == "COMPLETED"
