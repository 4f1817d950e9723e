"""A backend of a stranger, installed with pip, with the four methods and nothing else, through the whole service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import plugin
from tests.support.fixtures_service import Service, ServiceMaker

SH = ["/bin/sh", "-c"]


@pytest.fixture
def stranger(make_service: ServiceMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    target = tmp_path / "site-packages"
    plugin.install(target)
    monkeypatch.setenv("PYTHONPATH", str(target))
    return make_service(HPC_BACKEND="sample", WORKERS="1")


def test_four_methods_are_enough(stranger: Service) -> None:
    listed = {item["name"]: item for item in stranger.call("GET", "/backends")["items"]}
    assert listed["sample"]["available"]
    run_id = stranger.submit(
        {
            "name": "first",
            "foreach": ["a", "b"],
            "command": [*SH, 'echo "$WORKFLOW_KEY" | tee "$WORKFLOW_OUTPUT_DIR/key"'],
        },
        {"name": "second", "depends_on": ["first"], "command": [*SH, 'cat "$WORKFLOW_UPSTREAM_DIR"/first/*/key']},
    )
    run = stranger.wait(run_id)
    assert run["status"] == "COMPLETED", (run, stranger.log())
    second = stranger.step(run_id, "second")
    assert (second["backend"], second["exit_code"]) == ("sample", 0)
    assert second["wall_time_seconds"] is not None
    assert stranger.client.get(f"/step-runs/{second['id']}/log?stream=stdout").text == "a\nb\n"


def test_its_failures_have_names_and_its_jobs_can_be_cancelled(stranger: Service) -> None:
    bad = stranger.submit({"name": "only", "command": [*SH, "exit 7"]})
    assert stranger.wait(bad)["status"] == "FAILED"
    step = stranger.step(bad, "only")
    assert (step["reason"], step["exit_code"]) == ("program_failed", 7)
    long = stranger.submit({"name": "only", "command": ["sleep", "1000"]})
    stranger.wait_step(long, "only", lambda found: found["status"] == "RUNNING")
    stranger.call("POST", f"/runs/{long}/cancel")
    assert stranger.wait(long)["status"] == "CANCELLED"
