"""Runs: creating, reading and changing them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.limits import enforce, limits
from tests.api.rest import CHAIN, ONE, Hand, Rest

RUN_FIELDS = {
    "id", "pipeline", "pipeline_version", "project", "status", "status_reason", "cancel_requested_at", "paused",
    "parameters", "labels", "priority", "created_at", "started_at", "finished_at", "counts", "step_runs",
}  # fmt: skip
STEP_RUN_FIELDS = {
    "id", "run_id", "step", "key", "status", "reason", "reason_text", "waiting_for", "backend", "attempt",
    "max_attempts", "job_id", "exit_code", "wall_time_seconds", "cpu_hours", "peak_memory_gb", "created_at",
    "submitted_at", "started_at", "finished_at",
}  # fmt: skip


def test_the_response_to_post_equals_a_later_get(rest: Rest) -> None:
    rest.put("/pipelines/chain", CHAIN)
    made = rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": [1, "é 2"]}, "labels": {"a": "b:c"}})
    assert made.keys() >= RUN_FIELDS
    assert all(step.keys() >= STEP_RUN_FIELDS for step in made["step_runs"])
    assert (made["pipeline"], made["pipeline_version"], made["status"]) == ("chain", 1, "PENDING")
    assert made["parameters"] == {"scans": [1, "é 2"], "line": "CO43"}
    assert made["counts"]["PENDING"] == 5
    assert sum(made["counts"].values()) == 5
    assert [step["step"] for step in made["step_runs"]] == ["first", "first", "second", "second", "last"]
    assert made["created_at"].endswith("Z")
    assert UUID(made["id"]).version == 7
    shown = rest.get(f"/runs/{made['id']}")
    waits = {step["step"]: step.pop("waiting_for") for step in shown["step_runs"]}
    assert waits == {
        "first": "no worker serves the backend noop", "second": "waits for first", "last": "waits for second",
    }  # fmt: skip
    first_waits = {step["step"]: step.pop("waiting_for") for step in made["step_runs"]}
    assert first_waits == waits | {"first": "queued for a worker of backend noop"}
    assert shown == made


@pytest.fixture
def two_listed(rest: Rest) -> Iterator[None]:
    """One answer lists two step runs."""
    before = limits()
    enforce(replace(before, listed_step_runs=2))
    yield
    enforce(before)


@pytest.mark.usefixtures("two_listed")
def test_a_large_run_lists_its_first_step_runs_and_where_the_others_are(rest: Rest) -> None:
    rest.put("/pipelines/chain", CHAIN)
    made = rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": ["a_b", "c"]}})
    path = f"/runs/{made['id']}"
    shown = rest.get(path)
    assert [each["step"] for each in shown["step_runs"]] == ["first", "first"]
    assert (sum(shown["counts"].values()), made["step_runs_next"]) == (5, shown["step_runs_next"])
    rest_of_it = rest.get(f"{path}/step-runs", cursor=shown["step_runs_next"])
    assert [each["step"] for each in rest_of_it["items"]] == ["second", "second", "last"]
    assert rest_of_it["next_cursor"] is None
    assert [each["waiting_for"] for each in rest_of_it["items"]] == ["waits for first"] * 2 + ["waits for second"]
    assert rest.get(f"{path}/step-runs")["items"] == shown["step_runs"] + rest_of_it["items"]
    none = rest.get(path, step_runs=0)
    assert (none["step_runs"], rest.get(f"{path}/step-runs", cursor=none["step_runs_next"])["items"][0]) == (
        [],
        shown["step_runs"][0],
    )
    assert len(rest.get(path, step_runs=9)["step_runs"]) == 2
    assert rest.post("/runs", {"spec": ONE})["step_runs_next"] is None


def test_step_runs_of_a_run_by_step_key_and_status(rest: Rest) -> None:
    rest.put("/pipelines/chain", CHAIN)
    made = rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": ["a_b", "acb"]}})
    path = f"/runs/{made['id']}/step-runs"

    def names(**query: Any) -> list[str]:
        return [f"{each['step']}/{each['key']}" for each in rest.get(path, **query)["items"]]

    assert names(step="second") == ["second/a_b", "second/acb"]
    assert names(key="a_b") == ["first/a_b", "second/a_b"]
    assert names(key="a?b", step="first") == ["first/a_b", "first/acb"]
    assert names(status=["PENDING", "FAILED"], limit=5) == names()
    assert names(status="FAILED") == []
    first = rest.get(path, limit=2)
    assert len(rest.get(path, limit=5, cursor=first["next_cursor"])["items"]) == 3
    rest.refused(rest.client.get(f"/api/v1{path}?status=LOST"), 422, "invalid")
    rest.refused(rest.client.get(f"/api/v1{path}?cursor=x"), 400, "bad_cursor")
    rest.refused(rest.client.get(f"/api/v1/runs/{UUID(int=1)}/step-runs"), 404, "not_found")


def test_a_new_run_has_a_location_header(rest: Rest) -> None:
    response = rest.send("POST", "/runs", json={"spec": ONE})
    assert response.status_code == 202
    assert rest.client.get(response.headers["location"]).json()["id"] == response.json()["id"]
    assert response.json()["pipeline_version"] is None


def test_the_same_key_and_body_give_the_same_run(rest: Rest) -> None:
    key = {"Idempotency-Key": "night 17"}
    made = rest.post("/runs", {"spec": ONE, "labels": {"a": "1"}}, headers=key)
    again = rest.post("/runs", {"labels": {"a": "1"}, "spec": ONE}, status=200, headers=key)
    assert again["id"] == made["id"]
    other = rest.send("POST", "/runs", json={"spec": ONE, "labels": {"a": "2"}}, headers=key)
    rest.refused(other, 409, "conflict")
    assert rest.post("/runs", {"spec": ONE}, headers={"Idempotency-Key": "night 18"})["id"] != made["id"]
    assert len(rest.get("/runs")["items"]) == 2


def test_fifty_threads_with_one_key_make_one_run(rest: Rest) -> None:
    def ask(number: int) -> tuple[int, str]:
        key = {"Idempotency-Key": f"key {number % 2}"}
        response = rest.send("POST", "/runs", json={"spec": ONE}, headers=key)
        return response.status_code, response.json()["id"]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert sorted(status for status, _ in answers) == [200] * 48 + [202] * 2
    assert len({run_id for _, run_id in answers}) == len(rest.get("/runs")["items"]) == 2


def test_concurrent_requests_get_their_own_responses(rest: Rest) -> None:
    rest.put("/pipelines/chain", CHAIN)

    def ask(number: int) -> tuple[int, Any]:
        scans = {"scans": [number]} if number % 5 else {"scan": [number]}
        response = rest.send("POST", "/runs", json={"pipeline": "chain", "parameters": scans})
        return response.status_code, response.json()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(60)))
    for number, (status, answer) in enumerate(answers):
        if number % 5:
            assert (status, answer["parameters"]["scans"]) == (202, [number])
        else:
            assert (status, answer["code"]) == (422, "invalid")
            assert "parameters.scan" in {fault["path"] for fault in answer["faults"]}
    assert len(rest.get("/runs")["items"]) == 48


def test_an_inline_definition_is_stored_once_beside_the_registered_one(rest: Rest, hand: Hand) -> None:
    rest.put("/pipelines/one", ONE)
    other = {**ONE, "description": "another"}
    for _ in range(2):
        rest.run(other)
    rest.post("/runs/bulk", {"runs": [{"spec": other}] * 3})
    assert hand.execute("SELECT count(*) FROM specs WHERE pipeline_id IS NULL") == [(1,)]
    assert rest.get("/pipelines/one")["version"] == 1


def test_priority_comes_from_the_pipeline_unless_given(rest: Rest) -> None:
    rest.put("/pipelines/one", ONE)
    rest.send("PATCH", "/pipelines/one", json={"priority": 7})
    assert rest.post("/runs", {"pipeline": "one"})["priority"] == 7
    assert rest.post("/runs", {"pipeline": "one", "priority": None})["priority"] == 7
    assert rest.post("/runs", {"pipeline": "one", "priority": -3})["priority"] == -3


def test_a_run_uses_the_requested_version(rest: Rest) -> None:
    rest.put("/pipelines/one", ONE)
    rest.put("/pipelines/one", {**ONE, "description": "newer"})
    assert rest.post("/runs", {"pipeline": "one"})["pipeline_version"] == 2
    assert rest.post("/runs", {"pipeline": "one", "version": 1})["pipeline_version"] == 1


def test_a_run_chooses_the_backend_of_steps_that_name_none(rest: Rest) -> None:
    made = rest.run(backend="concurrent")
    assert (made["backend"], made["step_runs"][0]["backend"]) == ("concurrent", "concurrent")


def test_unicode_text_is_kept(rest: Rest) -> None:
    texts = ["Ωρίων ✨", "日本語", 'quote " and \\ and \n', "\U0001d538 astral", "\u202eright to left", "a:b:c", "\x7f"]
    labels = {f"name {text}".replace(":", "."): text for text in texts}
    made = rest.run(CHAIN, parameters={"scans": texts}, labels=labels)
    shown = rest.get(f"/runs/{made['id']}")
    assert shown["labels"] == labels
    assert shown["parameters"]["scans"] == texts
    found = rest.get("/runs", label=f"name {texts[0]}:{texts[0]}")
    assert [run["id"] for run in found["items"]] == [made["id"]]
    assert len(rest.get("/runs", q="日本")["items"]) == 1
    step_runs = [step for step in shown["step_runs"] if step["step"] == "first"]
    items = [rest.get(f"/step-runs/{step['id']}")["item"] for step in step_runs]
    assert sorted(items) == sorted(texts)


def test_cancel_pause_resume_retry(rest: Rest) -> None:
    run_id = rest.run()["id"]
    paused = rest.post(f"/runs/{run_id}/pause")
    assert (paused["paused"], paused["step_runs"][0]["waiting_for"]) == (True, "the run is paused by anonymous")
    assert rest.post(f"/runs/{run_id}/resume")["paused"] is False
    cancelled = rest.post(f"/runs/{run_id}/cancel")
    assert cancelled["status"] == "CANCELLED"
    assert cancelled["cancel_requested_at"].endswith("Z")
    assert rest.post(f"/runs/{run_id}/cancel")["status"] == "CANCELLED"
    again = rest.post(f"/runs/{run_id}/retry")
    assert (again["status"], again["cancel_requested_at"]) == ("PENDING", None)


def test_retry_repeats_only_what_did_not_complete(rest: Rest, hand: Hand) -> None:
    run_id = rest.run(CHAIN, parameters={"scans": [1, 2]})["id"]
    first, second = hand.claim(2)
    hand.complete(first)
    hand.fail(second, "broken pixel")
    for item in hand.claim(5):
        hand.complete(item)
    run = rest.get(f"/runs/{run_id}")
    assert run["status"] == "FAILED"
    assert "broken pixel" in run["status_reason"]
    assert {(s["step"], s["status"], s["reason"]) for s in run["step_runs"]} >= {
        ("first", "FAILED", "program_failed"), ("second", "SKIPPED", "upstream_failed"),
    }  # fmt: skip
    again = rest.post(f"/runs/{run_id}/retry")
    assert again["counts"]["COMPLETED"] == 2
    assert again["counts"]["PENDING"] == 3
    done = rest.run()
    hand.complete(next(item for item in hand.claim(10) if str(item.run.run_id) == done["id"]))
    rest.refused(rest.send("POST", f"/runs/{done['id']}/retry"), 409, "conflict")
    rest.refused(rest.send("POST", f"/runs/{run_id}/retry"), 409, "conflict")
    assert rest.post("/runs/retry", {"ids": [done["id"], run_id]})["ids"] == []


def test_a_finished_run_cannot_be_paused(rest: Rest, hand: Hand) -> None:
    run_id = rest.run()["id"]
    rest.post(f"/runs/{run_id}/pause")
    rest.post(f"/runs/{run_id}/cancel")
    rest.refused(rest.send("POST", f"/runs/{run_id}/pause"), 409, "conflict")
    assert rest.post(f"/runs/{run_id}/resume")["paused"] is False
    rest.refused(rest.send("POST", f"/runs/{run_id}/pause"), 409, "conflict")
    assert rest.get(f"/runs/{run_id}")["paused"] is False
    rest.post(f"/runs/{run_id}/retry")
    assert len(hand.claim(5)) == 1


def test_unknown_ids_are_reported_at_their_paths(rest: Rest) -> None:
    run_id, unknown = rest.run()["id"], "0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c"
    for verb in ("cancel", "retry"):
        response = rest.send("POST", f"/runs/{verb}", json={"ids": [run_id, run_id, unknown]})
        problem = rest.refused(response, 404, "not_found", "ids[2]")
        assert len(problem["faults"]) == 1
        assert unknown in problem["detail"]
    assert rest.get(f"/runs/{run_id}")["status"] == "PENDING"


def test_bulk_is_all_or_nothing_and_in_order(rest: Rest) -> None:
    rest.put("/pipelines/chain", CHAIN)
    wanted = [{"pipeline": "chain", "parameters": {"scans": [number]}} for number in range(20)]
    ids = rest.post("/runs/bulk", {"runs": wanted})["ids"]
    assert ids == sorted(ids)
    assert [rest.get(f"/runs/{each}")["parameters"]["scans"] for each in ids] == [[number] for number in range(20)]
    wanted[13] = {"pipeline": "chain", "parameters": {"scans": 13}}
    rest.refused(rest.send("POST", "/runs/bulk", json={"runs": wanted}), 422, "invalid", "runs[13].parameters.scans")
    wanted[13] = {"pipeline": "unknown"}
    rest.refused(rest.send("POST", "/runs/bulk", json={"runs": wanted}), 404, "not_found", "runs[13].pipeline")
    assert len(rest.items("/runs", 100)) == 20


def test_bulk_names_the_faults_of_all_runs(rest: Rest) -> None:
    wrong = [{"spec": ONE}, {"spec": {**ONE, "steps": []}}, {"pipeline": "absent"}, {"spec": ONE, "backend": "nope"}]
    said = rest.send("POST", "/runs/bulk", json={"runs": wrong})
    rest.refused(said, 422, "invalid", "runs[1].spec.steps", "runs[2].pipeline", "runs[3].backend")


def test_bulk_with_a_key_may_be_repeated(rest: Rest, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"Idempotency-Key": "night"}
    two = {"runs": [{"spec": ONE}, {"spec": ONE, "priority": 3}]}
    made = rest.post("/runs/bulk", two, headers=key)
    assert len(set(made["ids"])) == 2
    assert rest.post("/runs/bulk", two, status=200, headers=key) == made
    for other in ({"runs": two["runs"][:1]}, {"runs": [*two["runs"], {"spec": ONE}]}, {"runs": two["runs"][::-1]}):
        rest.refused(rest.send("POST", "/runs/bulk", json=other, headers=key), 409, "conflict")
    rest.refused(rest.send("POST", "/runs", json=two["runs"][0], headers=key), 409, "conflict")
    rest.refused(rest.send("POST", "/runs/bulk", json=two, headers={"Idempotency-Key": ""}), 422, "invalid")

    # Another call with the same key has written its runs after this one has looked.
    look, looks = context.submitter._bulk_made_before, [0]

    def too_early(*args: Any) -> Any:
        looks[0] += 1
        return None if looks[0] == 1 else look(*args)

    monkeypatch.setattr(context.submitter, "_bulk_made_before", too_early)
    assert rest.post("/runs/bulk", two, status=200, headers=key) == made
    assert looks == [2]
    looks[0] = 0
    rest.refused(rest.send("POST", "/runs/bulk", json={"runs": [{"spec": ONE}] * 3}, headers=key), 409, "conflict")
    assert len(rest.items("/runs", 100)) == 2
    assert rest.post("/runs/bulk", two)["ids"] != made["ids"]


def test_bulk_cancel_and_retry(rest: Rest, hand: Hand) -> None:
    ids = rest.post("/runs/bulk", {"runs": [{"spec": ONE, "labels": {"n": str(n % 2)}} for n in range(6)]})["ids"]
    assert rest.post("/runs/cancel", {"ids": [ids[0], ids[0]]})["ids"] == [ids[0]]
    assert sorted(rest.post("/runs/cancel", {"filter": {"label": "n:0"}})["ids"]) == [ids[2], ids[4]]
    assert {run["id"] for run in rest.items("/runs", 2, status="CANCELLED")} == {ids[0], ids[2], ids[4]}
    assert rest.post("/runs/retry", {"ids": [ids[1], ids[2], ids[2]]})["ids"] == [ids[2]]
    retried = rest.post("/runs/retry", {"filter": {"pipeline": "one", "label": ["n:0"]}})["ids"]
    assert sorted(retried) == [ids[0], ids[4]]
    assert rest.post("/runs/cancel", {"filter": {"pipeline": "absent"}})["ids"] == []
    (item,) = hand.claim(1)
    hand.fail(item)
    failed = str(item.run.run_id)
    assert rest.post("/runs/retry", {"filter": {"status": ["FAILED"], "q": "it broke"}})["ids"] == [failed]


def test_many_runs_are_cancelled_by_one_filter(rest: Rest) -> None:
    rest.post("/runs/bulk", {"runs": [{"spec": ONE}] * 2500})
    assert len(rest.post("/runs/cancel", {"filter": {"pipeline": "one"}})["ids"]) == 2500
    assert rest.get("/runs", status="PENDING")["items"] == []
