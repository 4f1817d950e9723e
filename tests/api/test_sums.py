"""The counts of every view add up: to its own total, and to what the step runs of all runs say."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Caveat, Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import FINISHED, Event, RunStatus, Status
from tests.api.rest import Hand, Rest

LEDGER = ("good", "caveats", "recovered", "contradictory", "pending", "failing", "failed", "blocked", "cancelled",
          "not_needed")  # fmt: skip
SPANS = ("1h", "24h", "7d", "30d", "90d")


def pipeline(name: str, edge: dict[str, Any]) -> dict[str, Any]:
    scans = "${parameters.scans}"
    return {
        "name": name,
        "parameters": {"type": "object", "properties": {"scans": {"type": "array"}}},
        "steps": [
            {"name": "calibrate", "foreach": scans, "command": ["a"], "retry": {"max_attempts": 2}},
            {"name": "baseline", "foreach": scans, "depends_on": ["calibrate"], "command": ["b"]},
            {"name": "map", "depends_on": [{"step": "baseline", **edge}], "command": ["c"]},
        ],
    }


PIPELINES = (pipeline("strict", {}), pipeline("tolerant", {"tolerate": "40%"}), pipeline("weak", {"weak": True}))
ENDS = ("complete", "complete", "complete", "caveats", "fail", "recover", "release", "submit", "claim")


def transition(item: WorkItem, end: str) -> Transition:
    submitted = TransitionEvent(Event.JOB_SUBMITTED, "t")
    done = [TransitionEvent(Event.JOB_SUCCEEDED, "t"), TransitionEvent(Event.RESULTS_COLLECTED, "t")]
    failed = TransitionEvent(Event.FAILED, "t", reason=FailureReason.NODE_FAILURE, text="x")
    again = TransitionEvent(Event.RETRIED, "t", text="again", delay_seconds=0)
    facts = Facts(job_id=f"job-{item.job_name}")
    notes = {
        "release": [TransitionEvent(Event.RELEASED, "t", text="x", delay_seconds=999)],
        "submit": [submitted],
        "fail": [submitted, failed],
        "recover": [submitted, failed, again] if item.attempt == 1 else [submitted, *done],
    }.get(end, [submitted, *done])
    caveats = [Caveat("partial", "half")] if end == "caveats" else []
    return Transition(item.step_run_id, notes, item.token, None if end == "release" else facts, caveats=caveats)


class History:
    """A service in which much has happened, by chance."""

    def __init__(self, rest: Rest, hand: Hand, context: Context, seed: int) -> None:
        self.rest, self.hand, self.context = rest, hand, context
        self.chance = random.Random(seed)
        self.names = [rest.put(f"/pipelines/{each['name']}", each)["name"] for each in PIPELINES]
        for _ in range(6):
            scans = self.chance.sample(range(9), self.chance.randint(0, 5))
            project = self.chance.choice(["default", "night"])
            body = {"pipeline": self.chance.choice(self.names), "parameters": {"scans": scans}, "project": project}
            rest.post("/runs", body)
            self.work(self.chance.randint(0, 2))
            self.interfere()
        hand.count()

    def work(self, rounds: int) -> None:
        for _ in range(rounds):
            for item in self.hand.claim(20):
                if (end := self.chance.choice(ENDS)) != "claim":
                    with self.context.database.begin() as unit:
                        RunStore(unit).apply([transition(item, end)])

    def interfere(self) -> None:
        """What a person does: some of it is refused."""
        run = self.chance.choice(self.rest.items("/runs", 100))["id"]
        step_run = self.chance.choice(self.rest.items(f"/runs/{run}/step-runs", 100))["id"]
        path, body = self.chance.choice(
            [
                (f"/runs/{run}/cancel", None), (f"/runs/{run}/retry", None), (f"/runs/{run}/pause", None),
                (f"/runs/{run}/resume", None), (f"/step-runs/{step_run}/cancel", None),
                (f"/step-runs/{step_run}/retry", None),
                (f"/step-runs/{step_run}/outcome", {"outcome": "skipped", "reason": "x"}),
                (f"/step-runs/{step_run}/outcome", {"outcome": "completed", "reason": "x"}),
            ]
        )  # fmt: skip
        assert self.rest.send("POST", path, json=body).status_code in (202, 409)


@pytest.fixture(params=range(5))
def history(rest: Rest, hand: Hand, context: Context, request: pytest.FixtureRequest) -> History:
    return History(rest, hand, context, request.param)


def test_the_counts_of_every_view_add_up(history: History) -> None:
    rest = history.rest
    runs = rest.items("/runs", 100)
    step_runs = {run["id"]: rest.items(f"/runs/{run['id']}/step-runs", 7) for run in runs}
    everything = [each for found in step_runs.values() for each in found]
    by_status = Counter(each["status"] for each in everything)
    for run in runs:
        check_run(rest, run, step_runs[run["id"]])
    check_lists(rest, runs)
    for name in history.names:
        of_pipeline = [run["id"] for run in runs if run["pipeline"] == name]
        check_ledger(rest, name, [each for run_id in of_pipeline for each in step_runs[run_id]])
        stats = rest.get(f"/pipelines/{name}/stats")
        assert sum(stats["last_runs"].values()) == len(of_pipeline)
    unfinished = sum(number for status, number in by_status.items() if Status(status) not in FINISHED)
    explained = rest.get("/explain")
    assert sum(each["count"] for each in explained["items"]) == explained["total"] == unfinished
    few = rest.send("GET", "/explain", params={"limit": 1})
    assert few.json()["total"] == unfinished
    known = {"If-None-Match": few.headers["etag"]}
    assert rest.send("GET", "/explain", params={"limit": 1}, headers=known).status_code == 304
    check_figures(rest, runs, by_status)
    projects = rest.items("/projects", 100)
    assert sum(each["queued"] for each in projects) == by_status["PENDING"]
    assert len(rest.items("/attention", 1)) == rest.get("/dashboard/summary")["attention"]


def check_run(rest: Rest, run: dict[str, Any], step_runs: list[dict[str, Any]]) -> None:
    counted = {status: number for status, number in run["counts"].items() if number}
    assert counted == Counter(each["status"] for each in step_runs)
    shown = rest.get(f"/runs/{run['id']}")
    assert [each["id"] for each in shown["step_runs"]] == [each["id"] for each in step_runs]
    assert run["caveat_count"] == sum(len(each["caveats"]) for each in step_runs if each["status"] == "COMPLETED")
    for status in Status:
        some = rest.items(f"/runs/{run['id']}/step-runs", 100, status=status)
        assert len(some) == run["counts"][status]
    set_aside = [each for each in step_runs if each["status"] == "SKIPPED" and each["reason"] == "set_by_hand"]
    causes = rest.get(f"/runs/{run['id']}/explain")["causes"]
    not_met = len(step_runs) - run["counts"]["COMPLETED"] - len(set_aside)
    assert sum(each["count"] for each in causes) == not_met


def check_lists(rest: Rest, runs: list[dict[str, Any]]) -> None:
    """The filters divide the runs, and the pages of the dashboard count the same."""
    for filters in (
        [{"status": each} for each in RunStatus], [{"pipeline": each["name"]} for each in PIPELINES],
        [{"project": each} for each in ("default", "night")], [{"caveats": each} for each in ("true", "false")],
    ):  # fmt: skip
        assert sum(len(rest.items("/runs", 100, **each)) for each in filters) == len(runs)
    page = rest.client.get("/runs", headers={"Accept": "text/html"}).text
    facets = [int(each) for each in re.findall(r"<b>(\d+)</b></a>", page.partition("</div></div>")[0])]
    assert (facets[0], sum(facets[1:])) == (len(runs), len(runs))


def check_ledger(rest: Rest, name: str, step_runs: list[dict[str, Any]]) -> None:
    found = rest.get(f"/pipelines/{name}/ledger", limit=1000)
    for numbers in (found["totals"], *found["steps"]):
        assert sum(numbers[state] for state in LEDGER) == numbers["expected"]
    for state in ("expected", *LEDGER):
        assert sum(step[state] for step in found["steps"]) == found["totals"][state]
    assert len(found["items"]) == found["totals"]["expected"]
    pairs = {(each["step"], each["key"]) for each in step_runs}
    assert {(each["step"], each["key"]) for each in found["items"]} == pairs
    by_state = Counter(each["state"] for each in found["items"])
    assert by_state == {state: number for state in LEDGER if (number := found["totals"][state])}


def check_figures(rest: Rest, runs: list[dict[str, Any]], by_status: Counter[str]) -> None:
    summary = rest.get("/dashboard/summary")
    assert {name: number for name, number in summary["live_step_runs"].items() if number} == {
        status: number for status, number in by_status.items() if Status(status) not in FINISHED
    }
    live = Counter(run["status"] for run in runs)
    assert summary["live"] == {status: live[status] for status in ("PENDING", "RUNNING")}
    assert summary["last_24_hours"]["CREATED"] == len(runs)
    for span in SPANS:
        series = rest.get("/dashboard/timeseries", span=span)
        for kind in ("runs", "attempts"):
            assert {name: sum(parts) for name, parts in series[kind].items()} == {
                **dict.fromkeys(series[kind], 0), **series["totals"][kind],
            }  # fmt: skip
        failed = series["totals"]["attempts"].get("FAILED", 0)
        assert sum(map(sum, series["failed_by"].values())) == sum(series["reasons"].values()) == failed
        assert series["totals"]["runs"]["CREATED"] == len(runs)
