"""Pauses, drains and the limits of projects over REST."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ccat_workflow_manager.context import Context
from tests.api.rest import ONE, Hand, Rest

PIPELINE = {**ONE, "name": "nightly", "project": "night"}
PATHS = ["/pipelines/nightly", "/projects/night", "/backends/noop", "/service"]


@pytest.mark.parametrize("path", PATHS)
def test_a_pause_is_the_reason_of_each_wait_until_it_ends(rest: Rest, hand: Hand, path: str) -> None:
    rest.put("/pipelines/nightly", PIPELINE)
    step_run = rest.post("/runs", {"pipeline": "nightly"})["step_runs"][0]["id"]
    later = datetime.now(UTC) + timedelta(hours=2)
    made = rest.post(f"{path}/pause", {"why": "a new calibration", "until": later.isoformat()}, status=200)
    assert made["text"] in rest.get(f"/step-runs/{step_run}")["waiting_for"]
    root = rest.get(f"/step-runs/{step_run}/explain")["root"]
    assert (root["cause"], root["words"], root["until"]) == ("on_hold", made["text"], made["until"])
    assert f"ccat-wm resume {made['kind']} {made['name']}".rstrip() in root["remedy"]
    assert rest.get("/holds")["items"] == [made]
    assert hand.claim() == []
    assert rest.post(f"{path}/resume", status=200) == made
    rest.refused(rest.send("POST", f"{path}/resume"), 404, "not_found")
    assert len(hand.claim()) == 1
    changes = [each["action"] for each in rest.get("/audit", object=path.strip("/"))["items"]]
    assert [each.split("_")[0] for each in changes if each.startswith(("pause_", "resume_"))] == ["resume", "pause"]


def test_a_pause_ends_by_itself(rest: Rest, hand: Hand, context: Context) -> None:
    rest.put("/pipelines/nightly", PIPELINE)
    rest.post("/runs", {"pipeline": "nightly"})
    rest.post("/projects/night/pause", {"why": "x", "until": "2999-01-31T12:00:00Z"}, status=200)
    hand.execute("UPDATE holds SET until = now()")
    assert rest.get("/holds")["items"] == []
    assert len(hand.claim()) == 1
    context.holds.sweep()
    context.holds.sweep()
    ended, begun = rest.get("/audit", object="projects/night")["items"]
    assert (ended["actor"], ended["project"], begun["action"]) == ("until", "night", "pause_project")
    assert begun["after"]["until"] == "2999-01-31T12:00:00Z"


def test_bad_holds_are_refused_with_the_path(rest: Rest) -> None:
    rest.put("/pipelines/nightly", PIPELINE)
    for body, path in (
        ({"why": "x", "until": "2020-01-31T12:00:00Z"}, "until"),
        ({"why": "x", "until": "tomorrow"}, "until"),
        ({"why": ""}, "why"),
        ({}, "why"),
        ({"why": "x", "mode": "stop"}, "mode"),
    ):
        rest.refused(rest.send("POST", "/pipelines/nightly/pause", json=body), 422, "invalid", path)
    for path in ("/pipelines/other", "/backends/other"):
        rest.refused(rest.send("POST", f"{path}/pause", json={"why": "x"}), 404, "not_found")


def test_a_run_over_the_limit_of_what_is_queued_is_refused(rest: Rest, hand: Hand) -> None:
    rest.put("/pipelines/nightly", PIPELINE)
    assert rest.put("/projects/night", {"max_queued": 2}, status=200)["max_queued"] == 2
    for _ in range(2):
        rest.post("/runs", {"pipeline": "nightly"})
    refused = rest.send("POST", "/runs", json={"pipeline": "nightly"})
    rest.refused(refused, 409, "limit_reached")
    detail = refused.json()["detail"]
    assert "the project night has 2 of 2 queued step runs (max_queued)" in detail
    assert "wait" in detail
    assert "ccat-wm project set night --max-queued 3`" in detail
    rest.run()  # of another project
    assert len(hand.claim(2)) == 2  # that one, and one of the night
    both = rest.send("POST", "/runs/bulk", json={"runs": [{"pipeline": "nightly"}] * 2})
    rest.refused(both, 409, "limit_reached", "runs[1]")
    assert rest.get("/projects/night")["queued"] == 1
    long = {**PIPELINE, "steps": [{"name": name, "command": ["true"]} for name in "abc"]}
    never = rest.send("POST", "/runs", json={"spec": long}).json()["detail"]
    assert "wait" not in never
    assert "ccat-wm project set night --max-queued 3`" in never
    rest.put("/projects/night", {}, status=200)
    rest.post("/runs/bulk", {"runs": [{"pipeline": "nightly"}] * 2})


def test_a_limit_is_the_reason_of_each_wait_that_it_causes(rest: Rest, hand: Hand) -> None:
    rest.put("/pipelines/nightly", PIPELINE)
    rest.put("/projects/night", {"max_live": 1}, status=200)
    hand.execute("INSERT INTO workers (id, host, pid, backends) VALUES ('w', 'h', 1, '{noop}')")
    ids = [rest.post("/runs", {"pipeline": "nightly"})["step_runs"][0]["id"] for _ in range(2)]
    (item,) = hand.claim(5)
    (waiting,) = {*ids} - {str(item.step_run_id)}
    assert "the project night has 1 of 1 live step runs" in rest.get(f"/step-runs/{waiting}")["waiting_for"]
    root = rest.get(f"/step-runs/{waiting}/explain")["root"]
    assert (root["cause"], root["subject"]) == ("quota", "night")
    project = rest.get("/projects/night")
    assert (project["live"], project["cpus"], project["queued"]) == (1, 1, 1)
    names = [each["name"] for each in rest.items("/projects", 1)]
    assert names == ["default", "night"]


def test_the_pause_of_a_run_ends_by_itself(rest: Rest, hand: Hand, context: Context) -> None:
    run = rest.run()
    body = {"why": "its input is being repaired", "until": "2999-01-31T12:00:00Z"}
    assert rest.post(f"/runs/{run['id']}/pause", body)["paused"]
    step_run = f"/step-runs/{run['step_runs'][0]['id']}"
    words = "the run is paused by anonymous until 2999-01-31T12:00:00Z: its input is being repaired"
    assert rest.get(step_run)["waiting_for"] == words
    root = rest.get(f"{step_run}/explain")["root"]
    assert (root["words"], root["until"]) == (words, body["until"])
    context.requests.end_pauses()
    assert hand.claim() == []
    hand.execute("UPDATE runs SET paused_until = now()")
    context.requests.end_pauses()
    assert not rest.get(f"/runs/{run['id']}")["paused"]
    assert len(hand.claim()) == 1
    assert [each["actor"] for each in rest.get("/audit")["items"]].count("until") == 1
    past = rest.send("POST", f"/runs/{run['id']}/pause", json={"until": "2020-01-31T12:00:00Z"})
    rest.refused(past, 422, "invalid", "until")


def test_a_pause_takes_back_what_is_only_queued(rest: Rest, hand: Hand, context: Context) -> None:
    rest.put("/pipelines/nightly", PIPELINE)
    rest.post("/runs/bulk", {"runs": [{"pipeline": "nightly"}] * 2})
    queued, running = hand.claim(2)
    hand.submit(queued)
    hand.submit(running)
    hand.execute("UPDATE step_runs SET status = 'RUNNING' WHERE id = :id", id=running.step_run_id)
    rest.post("/pipelines/nightly/pause", {"why": "x", "mode": "drain"}, status=200)
    context.breakers.sweep()
    wanted = "SELECT id FROM step_runs WHERE requeued_by_breaker"
    assert hand.execute(wanted) == []
    rest.post("/pipelines/nightly/pause", {"why": "x"}, status=200)
    context.breakers.sweep()
    assert [row[0] for row in hand.execute(wanted)] == [queued.step_run_id]
