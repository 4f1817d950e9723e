"""Projects of pipelines and runs."""

from __future__ import annotations

import pytest

from tests.api.rest import ONE, Hand, Rest


@pytest.fixture
def night(rest: Rest) -> str:
    """A pipeline of the project `night`."""
    rest.put("/pipelines/of-night", {**ONE, "name": "of-night", "project": "night"})
    return "of-night"


def test_everything_belongs_to_the_default_project_at_first(rest: Rest) -> None:
    assert rest.put("/pipelines/one", ONE)["project"] == "default"
    assert rest.run()["project"] == "default"
    assert rest.post("/runs", {"pipeline": "one"})["project"] == "default"


def test_a_run_belongs_to_the_project_of_its_pipeline_or_to_another_one(rest: Rest, night: str) -> None:
    assert rest.get(f"/pipelines/{night}")["project"] == "night"
    assert rest.post("/runs", {"pipeline": night})["project"] == "night"
    assert rest.post("/runs", {"pipeline": night, "project": "day"})["project"] == "day"
    assert rest.run({**ONE, "project": "day"})["project"] == "day"


def test_lists_can_be_limited_to_a_project(rest: Rest, night: str) -> None:
    rest.put("/pipelines/one", ONE)
    ids = rest.post("/runs/bulk", {"runs": [{"pipeline": night}, {"pipeline": "one"}]})["ids"]
    for project, pipeline, run_id in (("night", night, ids[0]), ("default", "one", ids[1])):
        assert [each["name"] for each in rest.get("/pipelines", project=project)["items"]] == [pipeline]
        assert [each["id"] for each in rest.get("/runs", project=project)["items"]] == [run_id]
    cancelled = rest.post("/runs/cancel", {"filter": {"project": "night"}})["ids"]
    assert cancelled == [ids[0]]
    rest.refused(rest.send("GET", "/runs", params={"project": "No Project"}), 422, "invalid", "project")


def test_a_pipeline_can_move_to_another_project(rest: Rest, night: str) -> None:
    assert rest.put(f"/pipelines/{night}", {**ONE, "name": night, "project": "day"})["version"] == 2
    assert rest.get(f"/pipelines/{night}")["project"] == "day"


def test_events_and_products_say_the_project_of_their_run(rest: Rest, night: str, hand: Hand) -> None:
    made = rest.post("/runs", {"pipeline": night})
    (item,) = hand.claim()
    hand.complete(item)
    events = rest.get(f"/step-runs/{made['step_runs'][0]['id']}/events")["items"]
    assert len(events) > 2
    assert {event["project"] for event in events} == {"night"}


def test_an_open_breaker_holds_back_its_own_project_only(rest: Rest, hand: Hand) -> None:
    hand.open_breaker()
    (breaker,) = rest.get("/breakers")["items"]
    assert breaker["project"] == "default"
    assert rest.get("/breakers", project="default")["items"] == [breaker]
    assert rest.get("/breakers", project="night")["items"] == []
    steps = [{"name": "out", "image": "a.sif", "foreach": list(range(10)), "command": ["a"]}]
    other = rest.run({"name": "fan", "project": "night", "steps": steps})
    assert "held back" not in other["step_runs"][0]["waiting_for"]


def test_what_is_changed_and_held_back_can_be_limited_to_a_project(rest: Rest, night: str, hand: Hand) -> None:
    hand.serve()
    rest.put("/pipelines/one", ONE)
    waiting = {}
    for project, pipeline in (("default", "one"), ("night", night)):
        rest.post(f"/pipelines/{pipeline}/pause", {"why": "x"}, status=200)
        rest.post(f"/projects/{project}/pause", {"why": "x"}, status=200)
        limit = {"max_live": 9, "until": "2999-01-31T12:00:00Z"}
        assert rest.send("PATCH", f"/projects/{project}", json=limit).is_success
        rest.post("/webhooks", {"url": "https://example.org/hook", "project": project}, status=201)
        waiting[project] = rest.post("/runs", {"pipeline": pipeline})["step_runs"][0]["id"]
    rest.post("/service/pause", {"why": "x"}, status=200)
    hand.execute("UPDATE step_runs SET cancel_requested_at = now() - interval '1 day'")
    for path, field, expected in (
        ("/holds", "name", {"default": ["", "default", "one"], "night": ["", "night", night], "day": [""]}),
        ("/overrides", "project", {"default": ["default"], "night": ["night"], "day": []}),
        ("/webhooks", "project", {"default": ["default"], "night": ["night"], "day": []}),
        ("/attention", "id", {**{name: [each] for name, each in waiting.items()}, "day": []}),
        ("/dashboard/attention", "held_up", {"default": [1], "night": [1], "day": []}),
    ):
        found = {name: [each[field] for each in rest.get(path, project=name)["items"]] for name in expected}
        assert found == expected, path
        rest.refused(rest.send("GET", path, params={"project": "No Project"}), 422, "invalid", "project")
