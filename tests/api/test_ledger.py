"""The ledger of a pipeline: each step and key has one state, over all runs and attempts."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries import ledger
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Caveat, Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from tests.api.rest import Rest

PIPELINE: dict[str, Any] = {
    "name": "night",
    "parameters": {"type": "object", "properties": {"scans": {"type": "array"}}},
    "steps": [
        {"name": "calibrate", "foreach": "${parameters.scans}", "command": ["a"]},
        {"name": "baseline", "foreach": "${parameters.scans}", "depends_on": ["calibrate"], "command": ["b"]},
    ],
}
STATES = ("good", "caveats", "recovered", "contradictory", "pending", "failing", "failed", "blocked", "cancelled",
          "not_needed")  # fmt: skip


def submit(rest: Rest, scans: list[int], night: str = "n1") -> str:
    body = {"pipeline": "night", "parameters": {"scans": scans}, "labels": {"night": night}}
    run_id: str = rest.send("POST", "/runs", json=body).json()["id"]
    return run_id


def play(context: Context, endings: dict[tuple[str, str], str]) -> None:
    """End what is ready as `endings` says, until nothing of it is ready."""
    while items := _claim(context):
        wanted = [(item, endings.get((item.step, item.key), "complete")) for item in items]
        with context.database.begin() as unit:
            RunStore(unit).apply([_ending(item, end) for item, end in wanted])
        if all(end == "release" for _, end in wanted):
            return


def _claim(context: Context) -> list[WorkItem]:
    with context.database.begin() as unit:
        return RunStore(unit).claim("noop", "w", 100, 60)


def _ending(item: WorkItem, end: str) -> Transition:
    job = [TransitionEvent(Event.JOB_SUBMITTED, "t")]
    done = [TransitionEvent(Event.JOB_SUCCEEDED, "t"), TransitionEvent(Event.RESULTS_COLLECTED, "t")]
    failed = TransitionEvent(Event.FAILED, "t", reason=FailureReason.NODE_FAILURE, text="x")
    facts = Facts(job_id=f"job-{item.job_name}")
    if end == "release":
        return Transition(item.step_run_id, [TransitionEvent(Event.RELEASED, "t", text="x", delay_seconds=999)])
    if end == "fail" or (end == "recover" and item.attempt == 1) or end == "failing":
        again = [TransitionEvent(Event.RETRIED, "t", text="again", delay_seconds=0 if end == "recover" else 999)]
        return Transition(item.step_run_id, [*job, failed, *(again if end != "fail" else [])], facts=facts)
    caveats = [Caveat("partial", "half")] if end == "caveats" else []
    return Transition(item.step_run_id, [*job, *done], facts=facts, caveats=caveats)


def states(rest: Rest, **query: str) -> dict[str, str]:
    found = rest.get("/pipelines/night/ledger", limit=1000, **query)
    for numbers in (found["totals"], *found["steps"]):
        assert sum(numbers[state] for state in STATES) == numbers["expected"]
    assert found["totals"]["expected"] == sum(step["expected"] for step in found["steps"])
    return {f"{item['step']}/{item['key']}": item["state"] for item in found["items"]}


def test_every_pair_has_one_state(rest: Rest, context: Context) -> None:
    rest.send("POST", "/pipelines", json=PIPELINE)
    submit(rest, [1, 2, 3, 4, 5, 6])
    play(context, {("calibrate", "2"): "fail", ("calibrate", "3"): "recover", ("calibrate", "4"): "caveats",
                   ("baseline", "5"): "release", ("calibrate", "6"): "failing"})  # fmt: skip
    assert states(rest) == {
        "calibrate/1": "good", "calibrate/2": "failed", "calibrate/3": "recovered", "calibrate/4": "caveats",
        "calibrate/5": "good", "baseline/1": "good", "baseline/2": "blocked", "baseline/3": "good",
        "baseline/4": "good", "baseline/5": "pending", "calibrate/6": "failing",
        "baseline/6": "pending",
    }  # fmt: skip
    submit(rest, [1, 2])  # a second run recovers one of the first, and contradicts another
    play(context, {("calibrate", "1"): "fail", ("baseline", "5"): "release"})
    both = states(rest)
    assert [both[name] for name in ("calibrate/1", "baseline/1")] == ["contradictory"] * 2
    assert [both[name] for name in ("calibrate/2", "baseline/2")] == ["recovered", "good"]
    assert states(rest, label="night:other") == {}
    assert set(states(rest, state="recovered")) == {"calibrate/2", "calibrate/3"}
    assert all(name.startswith("baseline/") for name in states(rest, step="baseline"))


def test_random_histories_add_up(rest: Rest, context: Context) -> None:
    chance = random.Random(5)
    rest.send("POST", "/pipelines", json=PIPELINE)
    for _ in range(4):
        scans = sorted(chance.sample(range(8), 5))
        submit(rest, scans)
        endings = [(step, str(scan)) for step in ("calibrate", "baseline") for scan in scans]
        play(context, {pair: chance.choice(["complete", "fail", "recover", "caveats"]) for pair in endings})
    shown = states(rest)
    assert Counter(shown.values()).total() == len(shown)
    pages: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = rest.get("/pipelines/night/ledger", limit=3, **cursor)
        pages += [f"{item['step']}/{item['key']}" for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == list(shown)


def test_the_newest_runs_are_looked_at(rest: Rest, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_RUNS", 2)
    rest.send("POST", "/pipelines", json=PIPELINE)
    for night, scan in (("n1", 1), ("n1", 2), ("n2", 3)):
        submit(rest, [scan], night)
    found = rest.get("/pipelines/night/ledger")
    assert (found["runs"], found["truncated"]) == (2, True)
    assert set(states(rest)) == {"calibrate/2", "baseline/2", "calibrate/3", "baseline/3"}
    assert not rest.get("/pipelines/night/ledger", label="night:n1")["truncated"]


def test_an_unknown_pipeline_has_no_ledger(rest: Rest) -> None:
    assert rest.send("GET", "/pipelines/nothing/ledger").status_code == 404
    rest.send("POST", "/pipelines", json=PIPELINE)
    assert states(rest) == {}
    assert rest.send("GET", "/pipelines/night/ledger?state=fine").status_code == 422
    assert rest.send("GET", "/pipelines/night/ledger?label=night").status_code == 422
    assert rest.send("GET", "/pipelines/night/ledger?cursor=x").status_code == 400
