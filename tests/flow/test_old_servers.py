"""Whole runs on the servers that `python -m tests.old_servers` has started; without those, on those of the wheels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fixtures_servers import Databases
from tests.support.fixtures_service import Service, running_service, sh
from tests.support.reaper import Reaper

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def elsewhere(reaper: Reaper, databases: Databases, redis_server_url: str) -> Iterator[Service]:
    url = databases.create()
    with running_service(reaper, DATABASE_URL=url, REDIS_URL=redis_server_url) as service:
        yield service
    databases.drop(url)


def test_every_kind_of_end(elsewhere: Service) -> None:
    run_id = elsewhere.submit(
        sh('echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/key"', "make", foreach=["a", "b", "c"]),
        sh('cat "$WORKFLOW_UPSTREAM_DIR"/make/*/key', "gather", depends_on=["make"]),
        sh('test "$WORKFLOW_ATTEMPT" = 2', "flaky",
           retry={"max_attempts": 2, "backoff_seconds": 0, "on": ["program_failed"]}),
        sh("exit 3", "broken"),
        sh("true", "behind", depends_on=["broken"]),
    )  # fmt: skip
    assert elsewhere.wait(run_id)["status"] == "FAILED"
    found = {name: elsewhere.step(run_id, name)["status"] for name in ("gather", "flaky", "broken", "behind")}
    assert found == {"gather": "COMPLETED", "flaky": "COMPLETED", "broken": "FAILED", "behind": "SKIPPED"}
    assert elsewhere.stream(elsewhere.step(run_id, "gather")) == "a\nb\nc\n"
    assert elsewhere.call("POST", f"/runs/{run_id}/retry")["status"] in ("PENDING", "RUNNING")
    assert elsewhere.wait(run_id)["status"] == "FAILED"
    endless = elsewhere.submit(sh("exec sleep 1000"))
    elsewhere.wait_running(endless)
    elsewhere.cancel(endless)


def test_lists_and_figures(elsewhere: Service) -> None:
    elsewhere.call("PUT", "/pipelines/kept", json={"name": "kept", "steps": [{"name": "s", "command": ["true"]}]})
    run_id = elsewhere.call("POST", "/runs", json={"pipeline": "kept", "labels": {"night": "31"}})["id"]
    assert elsewhere.wait(run_id)["status"] == "COMPLETED"
    for path in ("/runs?label=night:31&q=kept", "/events", "/attention", "/explain", "/backends", "/workers", "/audit",
                 "/dashboard/summary", "/dashboard/timeseries", "/pipelines/kept/stats",
                 "/pipelines/kept/ledger"):  # fmt: skip
        assert elsewhere.call("GET", path), path
