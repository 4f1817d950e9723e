"""Outcomes that a person sets by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.lifecycle.models import NewProduct, WorkItem
from tests.api.rest import Hand, Rest
from tests.support.invariants import at_rest, while_working

SPEC: dict[str, Any] = {
    "name": "two",
    "steps": [
        {"name": "reduce", "foreach": ["a", "b"], "command": ["r"], "retry": {"max_attempts": 1}},
        {"name": "clean", "foreach": ["a", "b"], "depends_on": ["reduce"], "command": ["c"]},
        {"name": "map", "depends_on": ["clean"], "command": ["m"]},
    ],
}
DEAD = {"outcome": "skipped", "reason": "dead since May"}
DONE = {"outcome": "completed", "reason": "done by hand"}


class Sample:
    """A run in which `reduce/a` has failed, and everything else that can has completed."""

    def __init__(self, rest: Rest, hand: Hand, context: Context) -> None:
        self.rest, self.hand, self._context = rest, hand, context
        self.id: str = rest.run(SPEC)["id"]
        for item in hand.claim(2):
            hand.fail(item, "it broke") if item.key == "a" else self.complete(item)
        self.complete_all()
        assert self.statuses() == {
            "reduce/a": "FAILED", "reduce/b": "COMPLETED", "clean/a": "SKIPPED", "clean/b": "COMPLETED",
            "map/main": "SKIPPED",
        }  # fmt: skip

    def complete(self, item: WorkItem) -> None:
        self.hand.complete(item, NewProduct(f"{item.step}.txt", "SCIENCE", "x", 1, "0" * 64))

    def complete_all(self) -> list[str]:
        names = []
        while items := self.hand.claim(10):
            names += [f"{item.step}/{item.key}" for item in items]
            for item in items:
                self.complete(item)
        return names

    def step_runs(self) -> dict[str, dict[str, Any]]:
        return {f"{s['step']}/{s['key']}": s for s in self.rest.get(f"/runs/{self.id}")["step_runs"]}

    def statuses(self) -> dict[str, str]:
        return {name: step_run["status"] for name, step_run in self.step_runs().items()}

    def set(self, name: str, outcome: Mapping[str, str], status: int = 202) -> dict[str, Any]:
        found: dict[str, Any] = self.rest.post(f"/step-runs/{self.step_runs()[name]['id']}/outcome", outcome, status)
        return found

    def sound(self) -> bool:
        with self._context.database.read() as unit:
            assert list(while_working(unit)) == []
            assert list(at_rest(unit)) == []
        return True


@pytest.fixture
def sample(rest: Rest, hand: Hand, context: Context) -> Sample:
    return Sample(rest, hand, context)


@pytest.mark.parametrize(("outcome", "status"), [(DEAD, "SKIPPED"), (DONE, "COMPLETED")])
def test_what_depends_on_it_goes_on(sample: Sample, outcome: dict[str, str], status: str) -> None:
    shown = sample.set("reduce/a", outcome)
    assert (shown["status"], shown["reason"]) == (status, "set_by_hand")
    assert outcome["reason"] in shown["reason_text"]
    assert sample.statuses()["clean/a"] == "PENDING"
    assert sample.sound()
    assert sample.complete_all() == ["clean/a", "map/main"]
    assert sample.rest.get(f"/runs/{sample.id}")["status"] == "COMPLETED"
    assert sample.sound()


def test_a_tolerated_loss_is_not_the_reason_of_a_run_that_is_completed_by_hand(rest: Rest, hand: Hand) -> None:
    once = {"retry": {"max_attempts": 1}}
    edge = {"step": "reduce", "match": "all", "tolerate": 1}
    steps = [
        {"name": "reduce", "foreach": ["a", "b"], "command": ["r"], **once},
        {"name": "map", "depends_on": [edge], "command": ["m"], **once},
    ]
    run_id = rest.run({"name": "lossy", "steps": steps})["id"]
    for item in hand.claim(2):
        hand.fail(item, "it broke") if item.key == "a" else hand.complete(item)
    [last] = hand.claim(2)
    hand.fail(last, "it broke too")
    rest.post(f"/step-runs/{last.step_run_id}/outcome", DONE)
    run = rest.get(f"/runs/{run_id}")
    assert (run["status"], run["status_reason"]) == ("COMPLETED", None)


def test_it_is_in_the_history_and_in_the_lineage(sample: Sample) -> None:
    sample.set("reduce/a", DEAD)
    sample.complete_all()
    step_run = sample.step_runs()["reduce/a"]
    last = sample.rest.get(f"/step-runs/{step_run['id']}/events")["items"][-1]
    assert (last["event"], last["from_status"], last["to_status"]) == ("set_skipped", "FAILED", "SKIPPED")
    assert "dead since May" in last["text"]
    attempt = sample.rest.get(f"/step-runs/{step_run['id']}/attempts")["items"][-1]
    assert attempt["reason"] == "program_failed"
    for name, expected in (("map/main", 1), ("clean/a", 1), ("clean/b", 0)):
        product = sample.hand.products(UUID(sample.step_runs()[name]["id"]))[f"{name.partition('/')[0]}.txt"]
        by_hand = sample.rest.get(f"/products/{product}/lineage")["set_by_hand"]
        assert [each["step_run_id"] for each in by_hand] == [step_run["id"]] * expected


def test_a_blocked_step_run_is_skipped_but_not_completed(sample: Sample) -> None:
    step_run = sample.step_runs()["clean/a"]["id"]
    refused = sample.rest.send("POST", f"/step-runs/{step_run}/outcome", json=DONE)
    sample.rest.refused(refused, 409, "conflict", "outcome")
    sample.set("clean/a", DEAD)
    assert sample.complete_all() == ["map/main"]
    run = sample.rest.get(f"/runs/{sample.id}")
    assert (run["status"], run["status_reason"]) == ("FAILED", "reduce/a: program_failed: it broke")
    assert sample.sound()


def test_a_retry_leaves_it_as_it_is(sample: Sample) -> None:
    sample.set("reduce/a", DEAD)
    step_run = sample.step_runs()["reduce/a"]["id"]
    for path in (f"/step-runs/{step_run}/retry", f"/runs/{sample.id}/retry"):
        sample.rest.refused(sample.rest.send("POST", path), 409, "conflict")
    assert sample.sound()


def test_what_waits_can_be_decided_before_it_is_launched(rest: Rest, hand: Hand, sample: Sample) -> None:
    other = rest.run(SPEC)
    first = other["step_runs"][0]
    rest.post(f"/step-runs/{first['id']}/outcome", DONE)
    assert {f"{item.step}/{item.key}" for item in hand.claim(10)} == {"reduce/b", "clean/a"}
    assert sample.sound()


def test_an_outcome_that_cannot_be_is_refused(rest: Rest, hand: Hand, sample: Sample) -> None:
    def refused(step_run: Any, body: Any, status: int, code: str, *paths: str) -> str:
        response = rest.send("POST", f"/step-runs/{step_run}/outcome", json=body)
        return str(rest.refused(response, status, code, *paths)["detail"])

    steps = sample.step_runs()
    assert "COMPLETED" in refused(steps["reduce/b"]["id"], DEAD, 409, "conflict", "outcome")
    failed = steps["reduce/a"]["id"]
    refused(failed, {"outcome": "failed", "reason": "x"}, 422, "invalid", "outcome")
    refused(failed, {"outcome": "skipped"}, 422, "invalid", "reason")
    refused(failed, {"outcome": "skipped", "reason": ""}, 422, "invalid", "reason")
    refused(uuid4(), DEAD, 404, "not_found")
    sample.set("reduce/a", DEAD)
    refused(failed, DONE, 409, "conflict", "outcome")
    rest.run(SPEC)
    (running, *_) = [item for item in hand.claim(10) if item.step == "reduce"]
    hand.submit(running)
    assert "cancel" in refused(running.step_run_id, DONE, 409, "conflict", "outcome")
