"""`ccat-wm explain`."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console

from ccat_workflow_manager.commands import output
from tests.cli.commands import answer, invoke, variables
from tests.cli.conftest import Deployment
from tests.cli.fake_api import fake_api

ROOT: dict[str, Any] = {
    "text": "the circuit breaker b1 of its step holds it back", "words": "the registry answers 401", "scheduler": None,
    "since": "2026-01-31T12:00:00Z", "until": None, "move": "site", "remedy": "mend the image",
}  # fmt: skip
FOUND: dict[str, Any] = {
    "summary": "map/main waits for calibrate/101",
    "chain": [{"text": "map/main waits for calibrate/101"}, {"text": "calibrate/101: a breaker\x1b[31m"}],
    "root": ROOT, "same_cause": 17,
    "again": [{"at": "2026-01-31T12:00:00Z", "attempt": 1, "event": "failed", "text": "the node is gone"}],
}  # fmt: skip


def test_the_chain_and_the_root_are_shown() -> None:
    with fake_api(FOUND) as url:
        shown = invoke("explain", str(uuid4()), env=variables() | {"CCAT_WM_URL": url})
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == "map/main waits for calibrate/101"
    assert lines[1].startswith("  calibrate/101")
    for word in ("401", "site", "mend the image", "17", "the node is gone"):
        assert word in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "None" not in shown.stdout


def test_nothing_is_said_twice() -> None:
    group = {"count": 1, "cause": "failed", "text": "it failed", "move": "author", "remedy": "retry it", "example": "x"}
    root = ROOT | {"text": "it failed", "words": "exit code 3", "remedy": "retry it"}
    found = {"summary": "the run is FAILED; a/b: it failed: exit code 3", "root": root, "causes": [group, group]}
    with fake_api(found) as url:
        shown = invoke("explain", str(uuid4()), env=variables() | {"CCAT_WM_URL": url}).stdout
    assert [shown.count(words) for words in ("exit code 3", "1 failed: retry it")] == [1, 2]
    assert all(name not in shown for name in ("Root:", "Recorded:", "What frees it:"))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_ids_and_causes_are_not_broken(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "give it more memory: `ccat-wm run retry latest --step grid --memory GB`"
    group: dict[str, Any] = {"count": 24, "cause": "failed", "text": "it failed", "move": "author", "remedy": remedy}
    group["example"] = str(uuid4())
    monkeypatch.setattr(output, "console", lambda: Console(width=width))
    with fake_api(
        {"summary": "the run is FAILED", "root": None, "causes": [group, {**group, "cause": "cancelled"}]}
    ) as url:
        shown = invoke("explain", str(uuid4()), env=variables() | {"CCAT_WM_URL": url})
    assert "cancelled" in shown.stdout
    assert (group["example"] in shown.stdout) is (width > 150)
    assert max(len(line) for line in shown.stdout.splitlines() if "`" not in line) <= width
    assert shown.stdout.count(remedy) == 2  # of each group once, and whole: it is to be copied


def test_nothing_waits(deployment: Deployment) -> None:
    shown = invoke("explain", env=deployment.env)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "", "Nothing waits.\n")
    assert answer("explain", env=deployment.env)["total"] == 0


def test_an_unknown_id(deployment: Deployment) -> None:
    for given in (str(uuid4()), "nonsense"):
        refused = invoke("explain", given, env=deployment.env)
        assert (refused.exit_code, refused.stdout) == (2, ""), refused.output


def test_the_ledger_of_an_unknown_pipeline(deployment: Deployment) -> None:
    refused = invoke("pipeline", "ledger", "nothing", env=deployment.env)
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_a_ledger_is_two_tables() -> None:
    numbers = dict.fromkeys(
        ("expected", "good", "caveats", "recovered", "contradictory", "pending", "failing", "failed", "blocked",
         "cancelled", "not_needed"), 7,
    )  # fmt: skip
    item = {"step": "calibrate", "key": "101", "state": "failed", "runs": 1, "attempts": 3, "step_run_id": "s1"}
    found = {"totals": numbers, "steps": [{"step": "calibrate", **numbers}], "items": [item], "next_cursor": None,
             "runs": 10_000, "truncated": True}  # fmt: skip
    with fake_api(found) as url:
        shown = invoke("pipeline", "ledger", "night", "--state", "failed", env=variables() | {"CCAT_WM_URL": url})
    assert shown.exit_code == 0
    for word in ("calibrate", "calibrate/101", "recovered", "s1", "7"):
        assert word in shown.stdout
    assert "newest 10,000" in shown.stderr
