"""Retries with other resources, or at another backend."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event
from tests.api.rest import Hand, Rest

SPEC: dict[str, Any] = {
    "name": "two",
    "steps": [
        {
            "name": "reduce",
            "foreach": ["a", "b"],
            "command": ["r"],
            "resources": {"memory_gb": 2, "extra": {"qos": "low"}},
            "retry": {"max_attempts": 1, "memory_cap_gb": 16, "time_cap_hours": 4},
        },
        {"name": "map", "depends_on": ["reduce"], "command": ["m"]},
    ],
}


def failed_run(rest: Rest, hand: Hand) -> dict[str, Any]:
    """Both step runs of `reduce` have failed."""
    run = rest.run(SPEC)
    for item in hand.claim(2):
        hand.fail(item)
    return dict(run)


def by_name(rest: Rest, run_id: str) -> dict[str, dict[str, Any]]:
    return {f"{s['step']}/{s['key']}": s for s in rest.get(f"/runs/{run_id}")["step_runs"]}


def test_the_next_attempt_has_the_resources_of_the_retry(rest: Rest, hand: Hand) -> None:
    run = failed_run(rest, hand)["id"]
    body = {"step": "reduce", "key": "a", "resources": {"memory_gb": 8, "time_hours": 2}, "reason": "crowded field"}
    rest.post(f"/runs/{run}/retry", body)
    steps = by_name(rest, run)
    assert {name: step["status"] for name, step in steps.items()} == {
        "reduce/a": "PENDING", "reduce/b": "FAILED", "map/main": "SKIPPED",
    }  # fmt: skip
    shown = rest.get(f"/step-runs/{steps['reduce/a']['id']}")["resources"]
    assert (shown["memory_gb"], shown["time_hours"], shown["cpu"], shown["extra"]) == (8, 2, 1, {"qos": "low"})
    (item,) = hand.claim(5)
    assert (item.resources.memory_gb, item.resources.time_hours, item.attempt) == (8, 2, 2)
    last = rest.get(f"/step-runs/{item.step_run_id}/events")["items"][-2]
    assert last["event"] == "retried"
    for words in ("8 GB instead of 2 GB", "2 h instead of 1 h", "crowded field"):
        assert words in last["text"]
    attempts = rest.get(f"/step-runs/{item.step_run_id}/attempts")["items"]
    assert [attempt["resources"]["memory_gb"] for attempt in attempts] == [2, 8]


def test_a_retry_goes_to_another_backend(rest: Rest, hand: Hand) -> None:
    run = failed_run(rest, hand)["id"]
    rest.post(f"/runs/{run}/retry", {"step": "reduce", "backend": "local"})
    steps = by_name(rest, run)
    assert {step["backend"] for name, step in steps.items() if name != "map/main"} == {"local"}
    assert (steps["map/main"]["status"], steps["map/main"]["backend"]) == ("PENDING", "noop")
    assert hand.claim(5) == []


def test_one_step_run_is_retried_with_more_memory(rest: Rest, hand: Hand) -> None:
    run = failed_run(rest, hand)["id"]
    step_run = by_name(rest, run)["reduce/b"]["id"]
    shown = rest.post(f"/step-runs/{step_run}/retry", {"resources": {"memory_gb": 16}})
    assert (shown["status"], shown["resources"]["memory_gb"]) == ("PENDING", 16)


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        ({"step": "reduce", "resources": {"memory_gb": 17}}, 422, "resources.memory_gb"),
        ({"step": "reduce", "resources": {"time_hours": 5}}, 422, "resources.time_hours"),
        ({"step": "reduce", "resources": {"memory_gb": -1}}, 422, "resources.memory_gb"),
        ({"step": "reduce", "resources": {"memory": 3}}, 422, "resources.memory"),
        ({"step": "reduce", "backend": "nowhere"}, 422, "backend"),
        ({"step": "redcue"}, 404, "step"),
        ({"step": "reduce", "key": "z"}, 404, "key"),
        ({"resources": {"memory_gb": 8}}, 422, "step"),
        ({"key": "a"}, 422, "step"),
        ({"step": "reduce", "reason": "x" * 1001}, 422, "reason"),
    ],
)
def test_a_retry_that_cannot_be_is_refused(rest: Rest, hand: Hand, body: Any, status: int, path: str) -> None:
    run = failed_run(rest, hand)["id"]
    code = {404: "not_found", 422: "invalid"}[status]
    rest.refused(rest.send("POST", f"/runs/{run}/retry", json=body), status, code, path)
    assert {step["status"] for step in by_name(rest, run).values()} == {"FAILED", "SKIPPED"}


def test_a_step_run_is_not_retried_as_another(rest: Rest, hand: Hand) -> None:
    run = failed_run(rest, hand)["id"]
    step_run = by_name(rest, run)["reduce/b"]["id"]
    rest.refused(rest.send("POST", f"/step-runs/{step_run}/retry", json={"key": "a"}), 422, "invalid", "key")
    rest.refused(rest.send("POST", f"/step-runs/{uuid4()}/retry", json={"key": "a"}), 404, "not_found")
    completed = rest.run(SPEC)["id"]
    (item,) = hand.claim()
    hand.complete(item)
    rest.refused(
        rest.send("POST", f"/runs/{completed}/retry", json={"step": "reduce", "key": item.key}), 409, "conflict"
    )


@pytest.mark.parametrize("body", [b"", b"{}", b" null "])
def test_no_body_in_every_form_is_a_retry_as_before(rest: Rest, hand: Hand, body: bytes) -> None:
    run = failed_run(rest, hand)["id"]
    response = rest.send("POST", f"/runs/{run}/retry", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 202, response.text


def test_a_policy_keeps_what_a_retry_has_given(rest: Rest, hand: Hand) -> None:
    run = failed_run(rest, hand)["id"]
    rest.post(f"/runs/{run}/retry", {"step": "reduce", "key": "a", "resources": {"memory_gb": 8}})
    (item,) = hand.claim()
    failed = TransitionEvent(Event.FAILED, "test", FailureReason.LOST, "lost")
    hand.apply(item, failed, TransitionEvent(Event.RETRIED, "retry policy"))
    (again,) = hand.claim()
    assert again.resources.memory_gb == 8
