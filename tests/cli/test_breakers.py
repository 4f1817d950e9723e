"""`ccat-wm breakers`."""

from __future__ import annotations

from uuid import uuid4

from tests.cli.commands import answer, invoke, variables
from tests.cli.conftest import Deployment
from tests.cli.fake_api import fake_api

BREAKER = {
    "id": "0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c", "state": "open", "pipeline": "chai", "step": "calibrate",
    "image": "calib.sif", "reason_text": "20 of the last 20 step runs failed", "failures": 20,
    "way": "program_failed, exit code 3", "held_back": 80, "probe": None, "opened_at": "2026-01-31T12:00:00Z",
    "probe_at": "2026-01-31T12:15:00Z", "updated_at": "2026-01-31T12:00:00Z",
}  # fmt: skip


def test_no_open_breaker(deployment: Deployment) -> None:
    shown = invoke("breakers", env=deployment.env)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "", "Nothing is held back.\n")
    assert answer("breakers", "--all", "--project", "default", env=deployment.env) == []


def test_an_unknown_breaker(deployment: Deployment) -> None:
    for given in (str(uuid4()), "nonsense"):
        refused = invoke("breakers", "release", given, env=deployment.env)
        assert (refused.exit_code, refused.stdout) == (2, "")
        shown = invoke("breakers", "events", given, env=deployment.env)
        assert shown.exit_code == 2


def test_breakers_are_a_table() -> None:
    with fake_api({"items": [BREAKER], "next_cursor": None}) as url:
        shown = invoke("breakers", env=variables() | {"CCAT_WM_URL": url})
    assert shown.exit_code == 0
    for word in (BREAKER["id"], "open", "chai/calibrate", "calib.sif", "80", "2026-01-31 12:15:00", "20 of the last"):
        assert str(word) in shown.stdout


def test_a_release_prints_the_number_of_step_runs() -> None:
    with fake_api(BREAKER) as url:
        text = invoke("breakers", "release", str(BREAKER["id"]), env=variables() | {"CCAT_WM_URL": url})
    assert text.stdout == f"{BREAKER['id']} released: 80 step runs of chai/calibrate can start\n"


def test_events_are_a_table() -> None:
    event = {"at": "2026-01-31T12:00:00Z", "event": "opened", "actor": "breaker", "text": "20 of the last 20"}
    with fake_api({"items": [event], "next_cursor": None}) as url:
        shown = invoke("breakers", "events", str(BREAKER["id"]), env=variables() | {"CCAT_WM_URL": url})
    assert "opened" in shown.stdout
    assert "20 of the last 20" in shown.stdout
