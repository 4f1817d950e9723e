"""The clocks of single processes are an hour off: leases, order and back-off are told by the clock of PostgreSQL."""

from __future__ import annotations

import os
import signal

import pytest

from tests.chaos.judging import require_all_is_well
from tests.support.fixtures_service import Service, ServiceMaker
from tests.support.waiting import wait_until

_OFF = """
import os, time
now, now_ns, off = time.time, time.time_ns, int(os.environ["CLOCK_OFF_BY"])
time.time, time.time_ns = lambda: now() + off, lambda: now_ns() + off * 10**9
"""
"""Run by Python before anything else: `time.time` of this process is off, and so are its log and its identifiers."""
_LEASE_SECONDS = 5
_WORK = 'echo started >> "$WORKFLOW_WORKSPACE_DIR/starts"; echo data > "$WORKFLOW_OUTPUT_DIR/x"'


def with_clock(seconds: int, service: Service, *arguments: str) -> int:
    """Start another process of the deployment, with a clock that is off. Returns its id."""
    (service.directory / "sitecustomize.py").write_text(_OFF)
    environment = {"PYTHONPATH": str(service.directory), "CLOCK_OFF_BY": str(seconds)}
    return service.start_another(*arguments, **environment).pid


@pytest.mark.slow
def test_a_clock_that_is_off_changes_nothing(make_service: ServiceMaker) -> None:
    """Two of three workers and one of two managers live in another hour than the database."""
    service = make_service(WORKERS="1", BREAKER_FAILURES="0", LEASE_SECONDS=str(_LEASE_SECONDS), LOCAL_MAX_CPU="8")
    fast = with_clock(3600, service, "worker", "--backend", "local")
    slow = with_clock(-3600, service, "worker", "--backend", "local")
    with_clock(3600, service, "manager", "--no-api")
    wait_until(lambda: len(service.worker_pids()) == 3, 60, "three workers")
    [honest] = set(service.worker_pids()) - {fast, slow}
    # Only those with wrong clocks work, and then die with work in hand.
    os.kill(honest, signal.SIGSTOP)
    fail_once = f'{_WORK}; test "$WORKFLOW_ATTEMPT" -gt 1'
    retry = {"max_attempts": 5, "backoff_seconds": 1, "on": ["program_failed"]}
    steps = {"name": "many", "foreach": [str(n) for n in range(20)], "command": ["/bin/sh", "-c", fail_once]}
    run_ids = [service.submit({**steps, "retry": retry}) for _ in range(3)]
    first = run_ids[0]
    assert service.wait(first)["status"] == "COMPLETED"
    latest = "SELECT max(lease_until - now()) < interval '1 minute' FROM step_runs WHERE lease_until IS NOT NULL"
    assert service.query(latest) in ([(True,)], [(None,)])
    run_ids += [service.submit({**steps, "retry": retry}) for _ in range(3)]
    os.kill(fast, signal.SIGKILL)
    os.kill(honest, signal.SIGCONT)
    for run_id in run_ids:
        assert service.wait(run_id, 60)["status"] == "COMPLETED"
    # What was decided lies within the life of this test, in the order in which it happened.
    [(oldest, newest, backwards)] = service.query(
        "SELECT min(at) > now() - interval '10 minutes', max(at) <= now(), count(*) FILTER (WHERE at < before)"
        " FROM (SELECT at, lag(at) OVER (PARTITION BY step_run_id ORDER BY id) AS before FROM events) e",
    )
    assert (oldest, newest, backwards) == (True, True, 0)
    assert service.query("SELECT DISTINCT attempt FROM step_runs") == [(2,)]
    require_all_is_well(service, run_ids, marks=True)
