"""Runs on Dask, through every process of a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.dask.cluster import DaskCluster
from tests.backends.dask.own import own_cluster
from tests.support.fixtures_service import Service, ServiceMaker
from tests.support.waiting import wait_until

SH = ["/bin/sh", "-c"]


@pytest.fixture
def at_a_site(make_service: ServiceMaker, dask_cluster: DaskCluster) -> Service:
    return make_service(
        HPC_BACKEND="dask", DASK_SCHEDULER_ADDRESS=dask_cluster.address, DASK_RESOURCES="cpu", FOLLOW_SECONDS="1"
    )


def test_a_fan_out_a_failure_and_a_cancel(at_a_site: Service) -> None:
    service, keys = at_a_site, [str(n) for n in range(30)]
    run_id = service.submit(
        {"name": "many", "command": [*SH, 'echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/key"'], "foreach": keys},
        {
            "name": "gather",
            "command": [*SH, 'cat "$WORKFLOW_UPSTREAM_DIR"/many/*/key | wc -l > "$WORKFLOW_OUTPUT_DIR/count"'],
            "depends_on": ["many"],
        },
    )
    run = service.wait(run_id, 90)
    assert run["status"] == "COMPLETED", run
    assert (service.attempt_dir(run_id, "gather") / "output" / "count").read_text().strip() == "30"
    assert all(step["attempt"] == 1 for step in run["step_runs"])

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


def test_the_scheduler_dies_and_the_step_is_tried_again(
    at_a_site: Service, dask_cluster: DaskCluster, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    text = f'echo "$WORKFLOW_ATTEMPT" >> "{starts}"; test "$WORKFLOW_ATTEMPT" = 2 || exec sleep 1000'
    run_id = at_a_site.submit(
        {"name": "only", "command": [*SH, text], "retry": {"max_attempts": 2, "backoff_seconds": 0}}
    )
    step = at_a_site.wait_step(run_id, "only", lambda step: step["status"] == "RUNNING")
    dask_cluster.kill_scheduler()

    def backend() -> str:
        listed = {item["name"]: item for item in at_a_site.call("GET", "/backends")["items"]}
        return str(listed["dask"])

    wait_until(lambda: "does not answer" in backend(), 30, "the trouble to be shown")
    assert at_a_site.step(run_id, "only")["status"] == "RUNNING", "silence is no failure"
    dask_cluster.restart()
    assert at_a_site.wait(run_id, 90)["status"] == "COMPLETED"
    first, second = at_a_site.call("GET", f"/step-runs/{step['id']}/attempts")["items"]
    assert (first["reason"], second["reason"]) == ("backend_failed", None)
    assert starts.read_text() == "1\n2\n"


def test_all_workers_die_while_a_job_runs_on_their_own_cluster(make_service: ServiceMaker, tmp_path: Path) -> None:
    service = make_service(HPC_BACKEND="dask", FOLLOW_SECONDS="1", DASK_IDLE_SECONDS="5")
    gate = tmp_path / "go"
    run_id = service.submit(
        {
            "name": "only",
            "command": [*SH, f"until test -e '{gate}'; do sleep 0.05; done; echo > $WORKFLOW_OUTPUT_DIR/a"],
        }
    )
    service.wait_step(run_id, "only", lambda step: step["status"] == "RUNNING")
    family = own_cluster(service.directory / "data" / "backends" / "dask")
    assert len(family) > 1
    service.kill()
    service.start()
    gate.touch()
    assert service.wait(run_id)["status"] == "COMPLETED"
    assert service.step(run_id, "only")["attempt"] == 1
    # With nothing left to do, the cluster ends by itself.
    wait_until(lambda: not any(process.is_running() for process in family), 60, "the end of the cluster")
