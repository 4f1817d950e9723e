"""A plug-in backend, installed with pip, with the four methods and nothing else, through the whole service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import plugin
from tests.support.fixtures_service import Service, running_service, sh
from tests.support.reaper import Reaper


@pytest.fixture(scope="module")
def deployment(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    target = tmp_path_factory.mktemp("plugin") / "site-packages"
    plugin.install(target)
    with running_service(reaper, {"PYTHONPATH": str(target)}, HPC_BACKEND="sample", WORKERS="1") as service:
        yield service


def test_four_methods_are_enough(deployment: Service) -> None:
    listed = {item["name"]: item for item in deployment.call("GET", "/backends")["items"]}
    assert listed["sample"]["available"]
    run_id = deployment.submit(
        sh('echo "$WORKFLOW_KEY" | tee "$WORKFLOW_OUTPUT_DIR/key"', "first", foreach=["a", "b"]),
        sh('cat "$WORKFLOW_UPSTREAM_DIR"/first/*/key', "second", depends_on=["first"]),
    )
    run = deployment.wait(run_id)
    assert run["status"] == "COMPLETED", (run, deployment.log())
    second = deployment.step(run_id, "second")
    assert (second["backend"], second["exit_code"]) == ("sample", 0)
    assert second["wall_time_seconds"] is not None
    assert deployment.stream(second) == "a\nb\n"


def test_its_failures_have_names_and_its_jobs_can_be_cancelled(deployment: Service) -> None:
    bad = deployment.submit(sh("exit 7"))
    assert deployment.wait(bad)["status"] == "FAILED"
    step = deployment.step(bad, "only")
    assert (step["reason"], step["exit_code"]) == ("program_failed", 7)
    long = deployment.submit(sh("exec sleep 1000"))
    deployment.wait_running(long)
    deployment.cancel(long)
