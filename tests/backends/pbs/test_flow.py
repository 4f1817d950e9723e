"""Runs at a fake PBS, through every process of a deployment."""

from __future__ import annotations

import pytest

from tests.backends.pbs.fake_pbs import FakePbs
from tests.support.fixtures_service import Service, ServiceMaker
from tests.support.waiting import wait_until

SH = ["/bin/sh", "-c"]


@pytest.fixture
def pbs_service(make_service: ServiceMaker, fake_pbs: FakePbs) -> Service:
    return make_service(HPC_BACKEND="pbs", PBS_CALLS_PER_MINUTE="5000", FOLLOW_SECONDS="1")


def test_a_fan_out_a_failure_and_a_cancel(pbs_service: Service, fake_pbs: FakePbs) -> None:
    service, keys = pbs_service, [str(n) for n in range(20)]
    write = 'echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/key"'
    count = 'cat "$WORKFLOW_UPSTREAM_DIR"/many/*/key | wc -l > "$WORKFLOW_OUTPUT_DIR/count"'
    run_id = service.submit(
        {"name": "many", "command": [*SH, write], "foreach": keys},
        {"name": "gather", "command": [*SH, count], "depends_on": ["many"]},
    )
    run = service.wait(run_id, 90)
    assert run["status"] == "COMPLETED", run
    assert (service.attempt_dir(run_id, "gather") / "output" / "count").read_text().strip() == "20"
    assert all(step["attempt"] == 1 for step in run["step_runs"])
    assert len(fake_pbs.jobs()) == fake_pbs.calls("qsub") == 21

    failing = service.submit(
        {"name": "only", "command": [*SH, "echo broken >&2; exit 3"], "retry": {"max_attempts": 1}}
    )
    assert service.wait(failing)["status"] == "FAILED"
    step = service.step(failing, "only")
    assert (step["reason"], step["exit_code"]) == ("program_failed", 3)
    assert service.client.get(f"/step-runs/{step['id']}/log?stream=stderr").text == "broken\n"

    endless = service.submit({"name": "only", "command": ["sleep", "1000"]})
    service.wait_step(endless, "only", lambda step: step["status"] == "RUNNING")
    service.call("POST", f"/runs/{endless}/cancel")
    assert service.wait(endless)["status"] == "CANCELLED"
    wait_until(lambda: all(job["job_state"] == "F" for job in fake_pbs.jobs()), what="the end of the job at PBS")

    rejected = service.submit({"name": "only", "command": ["true"], "resources": {"partition": "nowhere"}})
    service.wait(rejected)
    step = service.step(rejected, "only")
    assert (step["status"], step["reason"]) == ("FAILED", "rejected")
    assert "Unknown queue" in step["reason_text"]
