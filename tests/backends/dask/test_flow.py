"""Runs on Dask, through every process of a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.dask.cluster import DaskCluster
from tests.backends.dask.own import own_cluster
from tests.support.fixtures_service import Service, ServiceMaker, sh
from tests.support.waiting import wait_until


@pytest.fixture
def at_a_site(make_service: ServiceMaker, dask_cluster: DaskCluster) -> Service:
    return make_service(
        HPC_BACKEND="dask", DASK_SCHEDULER_ADDRESS=dask_cluster.address, DASK_RESOURCES="cpu", FOLLOW_SECONDS="1"
    )


@pytest.mark.slow
def test_the_scheduler_dies_and_the_step_is_tried_again(
    at_a_site: Service, dask_cluster: DaskCluster, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    text = f'echo "$WORKFLOW_ATTEMPT" >> "{starts}"; test "$WORKFLOW_ATTEMPT" = 2 || exec sleep 1000'
    run_id = at_a_site.submit(sh(text, retry={"max_attempts": 2, "backoff_seconds": 0}))
    step = at_a_site.wait_running(run_id)
    dask_cluster.kill_scheduler()

    def backend() -> str:
        listed = {item["name"]: item for item in at_a_site.call("GET", "/backends")["items"]}
        return str(listed["dask"])

    wait_until(lambda: "does not answer" in backend(), 30, "the trouble to be shown")
    assert at_a_site.step(run_id, "only")["status"] == "RUNNING", "silence is no failure"
    dask_cluster.restart()
    assert at_a_site.wait(run_id, 90)["status"] == "COMPLETED"
    first, second = at_a_site.attempts(step)
    assert (first["reason"], second["reason"]) == ("backend_failed", None)
    assert starts.read_text() == "1\n2\n"


@pytest.mark.slow
def test_all_workers_die_while_a_job_runs_on_their_own_cluster(make_service: ServiceMaker, tmp_path: Path) -> None:
    service = make_service(HPC_BACKEND="dask", FOLLOW_SECONDS="1", DASK_IDLE_SECONDS="5")
    gate = tmp_path / "go"
    run_id = service.submit(sh(f"until test -e '{gate}'; do sleep 0.05; done; echo > $WORKFLOW_OUTPUT_DIR/a"))
    service.wait_running(run_id)
    family = own_cluster(service.directory / "data" / "backends" / "dask")
    assert len(family) > 1
    service.kill()
    service.start()
    gate.touch()
    assert service.wait(run_id)["status"] == "COMPLETED"
    assert service.step(run_id, "only")["attempt"] == 1
    # With nothing left to do, the cluster ends by itself.
    wait_until(lambda: not any(process.is_running() for process in family), 60, "the end of the cluster")
