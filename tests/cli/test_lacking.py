"""What commands say of runs that lack something: step runs, steps, caveats."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from ccat_workflow_manager.commands import output
from tests.cli.commands import invoke, refused, variables
from tests.cli.fake_api import fake_api
from tests.cli.test_watch import RUN, a_run, step_run

LOST = step_run("reduce", "FAILED", "7", id="a", attempt=1, max_attempts=1)
GOOD = step_run("reduce", "COMPLETED", "8", id="b", attempt=1, max_attempts=1)
LISTED: dict[str, Any] = {
    "items": [], "next_cursor": None, "pipeline_version": None, "status_reason": "program_failed", "parameters": {},
    "labels": {}, "priority": 0, "counts": {"COMPLETED": 1, "FAILED": 1}, "run_id": RUN,
}  # fmt: skip


def test_a_download_names_what_did_not_complete() -> None:
    with fake_api(a_run("FAILED", LOST, GOOD, **LISTED)) as url:
        shown = invoke("run", "download", RUN, env=variables() | {"CCAT_WM_URL": url})
    assert "1 of 2 step runs did not complete: reduce/7" in shown.stderr


@pytest.mark.parametrize("verb", ["download", "products"])
def test_a_step_that_the_run_has_not_is_refused(verb: str) -> None:
    with fake_api(a_run("COMPLETED", GOOD, **LISTED)) as url:
        env = variables() | {"CCAT_WM_URL": url}
        assert "did you mean reduce?" in refused("run", verb, RUN, "--step", "redcue", env=env)
        assert "there are reduce" in refused("run", verb, RUN, "--step", "x", env=env)
        assert invoke("run", verb, RUN, "--step", "reduce", env=env).exit_code == 0


def test_a_run_shows_its_caveats() -> None:
    text = "map/main: reduce: 1 of 2 step runs did not complete: 7"
    found = a_run("COMPLETED", LOST, GOOD, **LISTED, caveat_count=1, caveats=[{"kind": "tolerated_loss", "text": text}])
    with fake_api(found) as url:
        assert text in invoke("run", "show", RUN, env=variables() | {"CCAT_WM_URL": url}).stdout


@pytest.mark.parametrize("width", [60, 80, 120])
def test_workers_break_no_id_and_no_time(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=width))
    one = {"id": "node-1:4711:a1b2c3", "backends": ["slurm"], "in_hand": 3, "seen_at": "2026-01-31T12:00:00Z",
           "ended_by_minute": [1] * 60, "drained": None}  # fmt: skip
    with fake_api({"items": [one], "next_cursor": None}) as url:
        shown = invoke("workers", env=variables() | {"CCAT_WM_URL": url}).stdout
    assert "node-1:4711:a1b2c3" in shown
    assert ("2026-01-31 12:00:00" in shown) is (width >= 100)
    assert "in hand" in shown
