"""GA4GH TES: what is refused, what is shown, and how lists are filtered."""

from __future__ import annotations

from typing import Any

import pytest

from ccat_workflow_manager.failures import FailureReason
from tests.api.rest import Hand, Rest, Secured

TES = "/ga4gh/tes/v1"
EXECUTOR = {"image": "ubuntu:24.04", "command": ["echo", "hello"]}


def create(rest: Rest, **task: Any) -> str:
    answer = rest.client.post(f"{TES}/tasks", json={"executors": [EXECUTOR], **task})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


def listed(rest: Rest, **query: Any) -> list[str]:
    answer = rest.client.get(f"{TES}/tasks", params=query)
    assert answer.status_code == 200, answer.text
    return [task["id"] for task in answer.json()["tasks"]]


def get(rest: Rest, task_id: str, view: str = "MINIMAL") -> dict[str, Any]:
    found: dict[str, Any] = rest.client.get(f"{TES}/tasks/{task_id}", params={"view": view}).json()
    return found


def test_a_run_that_only_looks_like_a_task_is_none(rest: Rest) -> None:
    spec = {"name": "tes", "steps": [{"name": "a", "command": ["true"]}]}
    odd = rest.run(spec, labels={"tes-name": "odd"})["id"]
    task_id = create(rest)
    assert listed(rest, view="FULL") == [task_id]
    answer = rest.client.get(f"{TES}/tasks/{odd}")
    assert (answer.status_code, "task" in answer.json()["detail"]) == (404, True)


def test_the_service_says_what_it_is(rest: Rest) -> None:
    info = rest.client.get("/v1/service-info").json()
    assert info["type"] == {"group": "org.ga4gh", "artifact": "tes", "version": "1.1.0"}
    assert "partition" in info["tesResources_backend_parameters"]
    assert info == rest.client.get(f"{TES}/service-info").json()


def test_a_task_becomes_a_run(rest: Rest) -> None:
    task_id = create(
        rest,
        name="count",
        description="Costs ${money}",
        resources={"cpu_cores": 2, "ram_gb": 3.5, "disk_gb": 10, "preemptible": True, "zones": ["science"],
                   "backend_parameters": {"GPU": "1", "Time_Hours": "0.5", "priority": "7", "VmSize": "big"}},
        tags={"night": "31"},
    )  # fmt: skip
    run = rest.get(f"/runs/{task_id}")
    assert (run["pipeline"], run["labels"], run["priority"]) == ("tes", {"night": "31", "tes-name": "count"}, 7)
    [step] = run["step_runs"]
    resources = rest.get(f"/step-runs/{step['id']}")["resources"]
    assert {name: resources[name] for name in ("cpu", "memory_gb", "gpu", "time_hours", "partition")} == {
        "cpu": 2, "memory_gb": 3.5, "gpu": 1, "time_hours": 0.5, "partition": "science",
    }  # fmt: skip
    task = get(rest, task_id, "FULL")
    assert task["description"] == "Costs ${money}"
    assert task["resources"]["backend_parameters"] == {"GPU": "1", "Time_Hours": "0.5", "priority": "7"}
    assert (task["state"], task["logs"], task["creation_time"]) == ("QUEUED", [], run["created_at"])


REFUSED = [
    ({"executors": []}, "executors"),
    ({"volumes": ["/vol/a"]}, "volumes"),
    ({"tags": {"tes-name": "x"}}, "tags.tes-name"),
    ({"tags": {"a:b": "x"}}, "tags"),
    ({"inputs": [{"path": "/data/x", "url": "/data/x"}]}, "inputs[0].path"),
    ({"inputs": [{"path": "/workflow/input/../x", "url": "/data/x"}]}, "inputs[0].path"),
    ({"inputs": [{"path": "/workflow/input/x"}]}, "inputs[0].url"),
    ({"inputs": [{"path": "/workflow/input/x", "url": "gs://bucket/x"}]}, "inputs[0]"),
    ({"inputs": [{"path": "/workflow/input/x", "url": "/data/*.fits"}]}, "inputs[0].url"),
    ({"inputs": [{"path": "/workflow/input/x", "content": "text"}]}, "inputs[0].path"),
    ({"outputs": [{"path": "/tmp/x", "url": "products:x"}]}, "outputs[0].path"),
    ({"outputs": [{"path": "/workflow/output/x", "url": "s3://bucket/x"}]}, "outputs[0].url"),
    ({"resources": {"zones": ["a", "b"]}}, "resources.zones"),
    ({"resources": {"cpu_cores": 1.5}}, "resources.cpu_cores"),
    ({"resources": {"ram_gb": 1e12}}, "resources"),
    ({"resources": {"backend_parameters": {"gpu": "x"}}}, "resources.backend_parameters.gpu"),
    ({"resources": {"backend_parameters": {"backend": "nowhere"}}}, "resources"),
    ({"resources": {"backend_parameters": {"VmSize": "x"}, "backend_parameters_strict": True}},
     "resources.backend_parameters.VmSize"),
    ({"executors": [{**EXECUTOR, "stdout": "/tmp/x"}]}, "executors[0].stdout"),
    ({"executors": [{**EXECUTOR, "env": {"WORKFLOW_X": "1"}}]}, "executors[0].env.WORKFLOW_X"),
    ({"executors": [{**EXECUTOR, "command": ["a\0b"]}]}, "executors[0].command[0]"),
    ({"executors": [{**EXECUTOR, "image": "docker://"}]}, "executors[0].image"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "path"), REFUSED, ids=[path for _, path in REFUSED])
def test_what_is_not_supported_is_refused_by_its_path(rest: Rest, task: dict[str, Any], path: str) -> None:
    answer = rest.client.post(f"{TES}/tasks", json={"executors": [EXECUTOR], **task})
    problem = rest.refused(answer, 422, "invalid")
    assert problem["faults"][0]["path"].startswith(path), problem


def test_lists_are_filtered_and_paged(rest: Rest, hand: Hand) -> None:
    rest.run()
    first, second, third = (
        create(rest, name=name, tags=tags)
        for name, tags in (("map-1", {"a": "1"}), ("map_2", {"a": "1", "b": "2"}), ("grid", {"b": ""}))
    )
    assert listed(rest) == [third, second, first]
    assert listed(rest, name_prefix="map") == [second, first]
    assert listed(rest, name_prefix="map_") == [second]
    assert listed(rest, tag_key=["a"], tag_value=["1"]) == [second, first]
    assert listed(rest, tag_key=["a", "b"], tag_value=["1", "2"]) == [second]
    assert listed(rest, tag_key=["b"]) == [third, second]
    assert listed(rest, tag_key=["a"], tag_value=["2"]) == []
    assert listed(rest, tag_key=["b", "b"], tag_value=["2", ""]) == [second]
    two = rest.client.get(f"{TES}/tasks", params={"tag_key": ["a", "a"], "tag_value": ["1", "2"]})
    rest.refused(two, 422, "invalid", "tag_value")
    page = rest.client.get(f"{TES}/tasks", params={"page_size": 2}).json()
    assert [task["id"] for task in page["tasks"]] == [third, second]
    assert listed(rest, page_size=2, page_token=page["next_page_token"]) == [first]
    rest.refused(rest.client.get(f"{TES}/tasks", params={"page_token": "x"}), 400, "bad_cursor")
    assert (listed(rest, state="QUEUED"), listed(rest, state="UNKNOWN")) == ([third, second, first], [])
    assert rest.client.post(f"/v1/tasks/{first}:cancel").json() == {}
    assert [get(rest, each)["state"] for each in (first, second)] == ["CANCELED", "QUEUED"]
    assert (listed(rest, state="CANCELED"), listed(rest, state="COMPLETE")) == ([first], [])


@pytest.mark.parametrize(
    ("reason", "state"),
    [("program_failed", "EXECUTOR_ERROR"), ("preempted", "PREEMPTED"), ("lost", "SYSTEM_ERROR"),
     ("image_missing", "SYSTEM_ERROR"), ("out_of_memory", "EXECUTOR_ERROR")],
)  # fmt: skip
def test_why_a_run_failed_decides_the_state(rest: Rest, hand: Hand, reason: str, state: str) -> None:
    task_id = create(rest)
    [item] = hand.claim()
    assert get(rest, task_id)["state"] == "INITIALIZING"
    hand.fail(item, reason=FailureReason(reason))
    assert get(rest, task_id)["state"] == state
    assert listed(rest, state=state) == [task_id]


def test_nothing_runs_behind_an_executor_that_failed(rest: Rest, hand: Hand) -> None:
    task_id = create(rest, executors=[EXECUTOR, {**EXECUTOR, "ignore_error": True}, EXECUTOR])
    [item] = hand.claim(10)
    hand.fail(item)
    assert hand.claim(10) == []
    assert [step["status"] for step in rest.get(f"/runs/{task_id}")["step_runs"]] == ["FAILED", "SKIPPED", "SKIPPED"]
    assert get(rest, task_id)["state"] == "EXECUTOR_ERROR"


def test_a_task_is_that_of_its_project(secured: Secured) -> None:
    mine, others = secured.caller("submitter", "mine"), secured.caller("submitter", "others")
    task_id = create(mine)
    assert (listed(mine), listed(others)) == ([task_id], [])
    assert mine.get(f"/runs/{task_id}")["project"] == "mine"
    for path in (f"/tasks/{task_id}", "/tasks/nothing"):
        assert others.client.get(f"{TES}{path}").status_code == 404
    assert others.client.post(f"{TES}/tasks/{task_id}:cancel").status_code == 404
    assert mine.client.get(f"{TES}/tasks/{mine.run(project='mine')['id']}").status_code == 404
    asks = {"resources": {"backend_parameters": {"project": "others"}}, "executors": [EXECUTOR]}
    assert mine.client.post(f"{TES}/tasks", json=asks).status_code == 404
