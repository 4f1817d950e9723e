"""Changes that end by themselves: limits, priorities, released breakers, resources and backends."""

from __future__ import annotations

from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from tests.api.rest import ONE, Hand, Rest

LATER = "2999-01-31T12:00:00Z"
PAST = "2020-01-31T12:00:00Z"
TERM = {"why": "a campaign", "until": LATER}
NIGHTLY = {**ONE, "name": "nightly", "project": "night"}


def end_all(hand: Hand, context: Context) -> None:
    """What becomes of all overrides when their time is over."""
    hand.execute("UPDATE overrides SET until = now()")
    context.overrides.sweep()
    context.overrides.sweep()


def ended(rest: Rest) -> list[dict[str, Any]]:
    return [each for each in rest.get("/audit")["items"] if each["actor"] == "until"]


def test_a_limit_of_a_project_ends_by_itself(rest: Rest, hand: Hand, context: Context) -> None:
    rest.put("/projects/night", {"weight": 2, "max_live": 1}, status=200)
    changed = rest.send("PATCH", "/projects/night", json={"max_live": 5, **TERM}).json()
    assert (changed["weight"], changed["max_live"]) == (2, 5)
    rest.send("PATCH", "/projects/night", json={"max_live": 7, **TERM})
    (override,) = rest.get("/overrides")["items"]
    assert (override["kind"], override["field"], override["before"], override["value"]) == ("project", "max_live", 1, 7)
    assert "max_live of the project night is 7 until 2999-01-31T12:00:00Z, set by anonymous" in override["text"]
    assert "a campaign; then it is 1 again" in override["text"]
    end_all(hand, context)
    assert rest.get("/projects/night")["max_live"] == 1
    assert rest.get("/overrides")["items"] == []
    (row,) = ended(rest)
    assert (row["object"], row["before"]["max_live"], row["after"]) == ("projects/night", 7, {"max_live": 1})


def test_a_change_for_good_ends_an_override(rest: Rest, hand: Hand, context: Context) -> None:
    rest.put("/projects/night", {"max_live": 5, **TERM}, status=200)
    assert len(rest.get("/overrides")["items"]) == 1
    rest.put("/projects/night", {"max_live": 6}, status=200)
    end_all(hand, context)
    assert rest.get("/projects/night")["max_live"] == 6
    rest.send("PATCH", "/projects/night", json={"max_live": 8, **TERM})
    (override,) = rest.get("/overrides")["items"]
    assert rest.send("DELETE", f"/overrides/{override['id']}").json() == override
    assert rest.get("/projects/night")["max_live"] == 6
    rest.refused(rest.send("DELETE", f"/overrides/{override['id']}"), 404, "not_found")


def test_switches_of_a_pipeline_end_by_themselves(rest: Rest, hand: Hand, context: Context) -> None:
    rest.put("/pipelines/nightly", NIGHTLY)
    for patch in ({"enabled": False}, {"priority": 7}):
        rest.send("PATCH", "/pipelines/nightly", json={**patch, **TERM})
    found = rest.get("/pipelines/nightly")
    assert (found["enabled"], found["priority"]) == (False, 7)
    rest.send("PATCH", "/pipelines/nightly", json={"priority": 9})
    end_all(hand, context)
    found = rest.get("/pipelines/nightly")
    assert (found["enabled"], found["priority"]) == (True, 9)


def test_the_priority_of_a_run_ends_by_itself(rest: Rest, hand: Hand, context: Context) -> None:
    first, second = (rest.run()["id"] for _ in range(2))
    assert rest.post(f"/runs/{second}/priority", {"priority": 10, **TERM})["priority"] == 10
    (override,) = rest.get("/overrides")["items"]
    assert (override["kind"], override["name"], override["before"], override["value"]) == ("run", second, 0, 10)
    end_all(hand, context)
    assert rest.get(f"/runs/{second}")["priority"] == 0
    assert [str(item.run.run_id) for item in hand.claim(2)] == [first, second]
    done = hand.finished_run()
    rest.refused(rest.send("POST", f"/runs/{done}/priority", json={"priority": 1}), 409, "conflict")


def test_a_released_breaker_counts_no_failure_until_then(rest: Rest, hand: Hand, context: Context) -> None:
    breaker = hand.open_breaker()
    rest.post(f"/breakers/{breaker}/release", TERM, status=200)
    (override,) = rest.get("/overrides")["items"]
    assert (override["kind"], override["name"], override["before"]) == ("breaker", breaker, False)
    hand.open_breaker()
    assert rest.get("/breakers")["items"] == []
    end_all(hand, context)
    assert hand.open_breaker() == breaker
    events = rest.get(f"/breakers/{breaker}/events")["items"]
    assert "until 2999-01-31T12:00:00Z: a campaign" in next(e["text"] for e in events if e["event"] == "released")


def test_other_resources_are_for_attempts_that_start_until_then(rest: Rest, hand: Hand, context: Context) -> None:
    ids = [rest.run()["id"] for _ in range(2)]
    for item in hand.claim(2):
        hand.fail(item)
    for run_id in ids:
        body = {"step": "only", "resources": {"memory_gb": 8}, "backend": "local", "reason": "slow", "until": LATER}
        rest.post(f"/runs/{run_id}/retry", body)
    steps = [rest.get(f"/runs/{each}")["step_runs"][0]["id"] for each in ids]
    assert [rest.get(f"/step-runs/{each}")["backend"] for each in steps] == ["local", "local"]
    before = next(each for each in rest.get("/overrides")["items"] if each["field"] == "resources")
    assert f"is memory_gb 8 until {LATER}" in before["text"]
    hand.execute(
        "UPDATE step_runs SET lease_owner = 'w', lease_until = now(), status = 'STAGING_DATA' WHERE id = :id",
        id=steps[0],
    )
    end_all(hand, context)
    started, waiting = (rest.get(f"/step-runs/{each}") for each in steps)
    assert (started["backend"], started["resources"]["memory_gb"]) == ("local", 8)
    assert (waiting["backend"], waiting["resources"]) == ("noop", before["before"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/projects/night", {"max_live": 5}),
        ("PATCH", "/projects/night", {"max_live": 5}),
        ("PATCH", "/pipelines/nightly", {"enabled": False}),
        ("POST", "/runs/{run}/priority", {"priority": 5}),
        ("POST", "/runs/{run}/retry", {"step": "out", "backend": "local"}),
        ("POST", "/breakers/{breaker}/release", {}),
    ],
)
def test_an_end_in_the_past_is_refused_with_the_path(
    rest: Rest, hand: Hand, method: str, path: str, body: dict[str, Any]
) -> None:
    rest.put("/pipelines/nightly", NIGHTLY)
    breaker = hand.open_breaker()
    run = next(each["id"] for each in rest.get("/runs")["items"])
    url = path.format(run=run, breaker=breaker)
    rest.refused(rest.send(method, url, json={**body, "until": PAST}), 422, "invalid", "until")
    rest.refused(rest.send(method, url, json={**body, "until": "soon"}), 422, "invalid", "until")
    assert rest.get("/overrides")["items"] == []


def test_a_change_of_nothing_and_an_unknown_override_are_refused(rest: Rest) -> None:
    rest.refused(rest.send("PATCH", "/projects/night", json={"why": "x"}), 422, "invalid", "")
    rest.refused(rest.send("DELETE", "/overrides/1"), 404, "not_found")
