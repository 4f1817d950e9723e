"""Edges that tolerate losses: `RunStore` on PostgreSQL against a small oracle."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.products import UpstreamReader
from ccat_workflow_manager.db.runs import Applied
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Facts, Transition, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.services.run_request import RunRequest
from tests.store.test_run_store import apply, check_counters, claim, complete, event_of, rows, start, statuses

NAMES = "abcdef"


def fail(context: Context, item: WorkItem) -> Applied:
    return apply(context, _ended(item, works=False))


# --- the oracle -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class E:
    """An edge to the step `up`."""

    up: int
    key: bool
    tolerate: int | str | None
    weak: bool
    wait: str | None

    def spec(self) -> dict[str, Any]:
        written = {"step": NAMES[self.up], "match": "key" if self.key else "all", "wait": self.wait}
        more = {"tolerate": self.tolerate, "weak": self.weak}
        return {name: value for name, value in (written | more).items() if value is not None}

    def allowed(self, total: int) -> float:
        if self.weak:
            return total
        if isinstance(self.tolerate, str):
            return math.floor(float(self.tolerate[:-1]) * total / 100)
        return self.tolerate or 0


Dag = list[tuple[list[str], list[E]]]
"""For each step its keys and its edges."""
State = dict[tuple[int, str], str]
OVER = {"COMPLETED", "FAILED", "SKIPPED", "CANCELLED"}


def ups(dag: Dag, edge: E, key: str) -> list[tuple[int, str]]:
    return [(edge.up, key)] if edge.key else [(edge.up, each) for each in dag[edge.up][0]]


def verdict(dag: Dag, edge: E, key: str, state: State) -> str:
    """What an edge means for the step run with this key: it runs, it is skipped, or it waits."""
    before = [state[each] for each in ups(dag, edge, key)]
    lost = sum(each in OVER - {"COMPLETED"} for each in before)
    over = all(each in OVER for each in before)
    allowed = edge.allowed(len(before))
    if edge.tolerate is None and not edge.weak:
        return "skip" if lost else "run" if over else "wait"
    if lost > allowed and (over or edge.wait == "fail_fast"):
        return "skip"
    return "run" if over else "wait"


def tolerated(dag: Dag, state: State, loss: tuple[int, str]) -> bool:
    """Whether the losses of a finished run that follow from this one end at edges that tolerate them."""
    behind = [(n, edge) for n, (keys, edges) in enumerate(dag) for edge in edges if edge.up == loss[0] and keys]
    for number, edge in behind:
        if verdict(dag, edge, loss[1], state) == "run":
            continue
        lost = [(number, key) for key in dag[number][0] if state[number, key] != "COMPLETED"]
        soft = edge.weak or edge.tolerate is not None
        if soft or not all(tolerated(dag, state, each) for each in lost if not edge.key or each[1] == loss[1]):
            return False
    return bool(behind)


# --- random runs ----------------------------------------------------------------------------------------------------


def random_dag(chance: random.Random) -> Dag:
    items = [str(number) for number in range(chance.randint(1, 5))]
    dag: Dag = []
    for number in range(chance.randint(2, 6)):
        keys = items if chance.random() < 0.7 else ["main"]
        edges = []
        for up in chance.sample(range(number), min(number, chance.randint(0, 2))):
            own_key = keys == dag[up][0] and keys != ["main"] and chance.random() < 0.6
            weak = chance.random() < 0.25
            tolerate = chance.choice([None, 0, 1, 2, "20%", "50%", "100%"]) if not own_key and not weak else None
            wait = chance.choice([None, "all", "fail_fast"]) if tolerate is not None else None
            edges.append(E(up, own_key, tolerate, weak, wait))
        dag.append((keys, edges))
    return dag


def submit(context: Context, dag: Dag) -> UUID:
    steps = []
    for number, (keys, edges) in enumerate(dag):
        foreach = {"foreach": [int(key) for key in keys]} if keys != ["main"] else {}
        depends_on = [edge.spec() for edge in edges]
        steps.append({"name": NAMES[number], "command": ["a"], "depends_on": depends_on, **foreach})
    return start(context, {"name": "random", "steps": steps})


def state_of(context: Context, run_id: UUID) -> State:
    found = rows(context, "SELECT step, key, status FROM step_runs WHERE run_id = :id", id=run_id)
    return {(NAMES.index(step), key): status for step, key, status in found}


def play(context: Context, dag: Dag, run_id: UUID, chance: random.Random, failing: float) -> set[tuple[str, str]]:
    """Let the run come to rest; compare each step with the oracle. Returns what was started."""
    live: list[WorkItem] = []
    begun = set[tuple[str, str]]()
    while True:
        state = state_of(context, run_id)
        new = claim(context)
        expected = {
            (step, key)
            for (step, key), status in state.items()
            if status == "PENDING" and all(verdict(dag, edge, key, state) == "run" for edge in dag[step][1])
        }
        assert {(NAMES.index(item.step), item.key) for item in new} == expected
        for (step, key), status in state.items():
            if status == "PENDING":
                assert all(verdict(dag, edge, key, state) != "skip" for edge in dag[step][1]), (step, key)
        assert not begun & {(item.step, item.key) for item in new}, "started twice"
        begun |= {(item.step, item.key) for item in new}
        live += new
        if not live:
            assert set(state.values()) <= OVER
            return begun
        for item in [live.pop(chance.randrange(len(live))) for _ in range(chance.randint(1, len(live)))]:
            (fail if chance.random() < failing else complete)(context, item)


def check(context: Context, dag: Dag, run_id: UUID) -> None:
    state = state_of(context, run_id)
    losses = [each for each, status in state.items() if status != "COMPLETED"]
    fine = all(tolerated(dag, state, each) for each in losses)
    ((status, count, caveats),) = rows(context, "SELECT status, n_caveats, caveats FROM runs WHERE id = :id", id=run_id)
    assert status == ("COMPLETED" if fine else "FAILED")
    if status == "COMPLETED" and losses:
        assert count >= 1
        assert caveats[0]["kind"] == "tolerated_loss"


@pytest.mark.parametrize("seed", range(16))
def test_random_runs_follow_the_oracle(context: Context, seed: int) -> None:
    """Each step run starts once, and only when its edges are decided; then a person retries what was lost."""
    chance = random.Random(seed)
    dag = random_dag(chance)
    run_id = submit(context, dag)
    play(context, dag, run_id, chance, failing=0.3)
    check(context, dag, run_id)
    before = state_of(context, run_id)
    context.requests.retry([run_id], actor="anna")
    begun = play(context, dag, run_id, chance, failing=0.2)
    completed = {(NAMES[step], key) for (step, key), status in before.items() if status == "COMPLETED"}
    assert not begun & completed, "a completed step run ran again"
    check(context, dag, run_id)
    while "COMPLETED" not in rows(context, "SELECT status FROM runs WHERE id = :id", id=run_id)[0]:
        context.requests.retry([run_id], actor="anna")
        play(context, dag, run_id, chance, failing=0)
    check_steps(context)


def check_steps(context: Context) -> None:
    assert rows(context, "SELECT 1 FROM step_runs WHERE status IN ('COMPLETED') AND awaits <> '{}'") == []
    lost = "SELECT count(*) FROM step_runs s WHERE (s.run_id, s.position) = (t.run_id, t.position)"
    wrong = f"SELECT 1 FROM run_steps t WHERE soft <> '{{}}' AND lost <> ({lost} AND s.status <> 'COMPLETED')"
    assert rows(context, wrong) == []


# --- single cases ---------------------------------------------------------------------------------------------------


def visit(keys: int, more: dict[str, Any]) -> dict[str, Any]:
    """Calibrations, baselines of the same keys, and a map that tolerates some losses among them."""
    items = list(range(keys))
    return {
        "name": "visit",
        "steps": [
            {"name": "calibrate", "foreach": items, "command": ["a"]},
            {"name": "baseline", "foreach": items, "depends_on": ["calibrate"], "command": ["b"]},
            {"name": "map", "depends_on": [{"step": "baseline", "match": "all", **more}], "command": ["c"]},
        ],
    }


def test_a_loss_far_before_the_map_is_tolerated_and_never_hidden(context: Context) -> None:
    run_id = start(context, visit(20, {"tolerate": "5%"}))
    for item in claim(context):
        (fail if item.key == "7" else complete)(context, item)
    assert statuses(context, run_id)["baseline/7"] == "SKIPPED"
    for item in claim(context):
        complete(context, item)
    (last,) = claim(context)
    complete(context, last)
    ((status, caveats),) = rows(context, "SELECT status, caveats FROM runs")
    assert status == "COMPLETED"
    assert caveats == [{"kind": "tolerated_loss", "text": "map/main: baseline: 1 of 20 step runs did not complete: 7"}]
    check_counters_of_tolerated(context)


def check_counters_of_tolerated(context: Context) -> None:
    assert rows(context, "SELECT n_failed, n_skipped, tolerated FROM runs") == [(1, 1, True)]


def test_a_map_of_182_names_the_7_that_it_lacks(context: Context) -> None:
    keys = list(range(189))
    spec = {
        "name": "visit",
        "steps": [
            {"name": "calibrate", "foreach": keys, "command": ["a"]},
            {"name": "map", "depends_on": [{"step": "calibrate", "tolerate": "5%"}], "command": ["c"]},
        ],
    }
    start(context, spec)
    items = claim(context, 200)
    dead = {item.key for item in items[10:17]}
    apply(context, *[_ended(item, works=item.key not in dead) for item in items])
    (last,) = claim(context)
    upstream = UpstreamReader(context.database, [last], 1000).of(last)
    assert {each.key for each in upstream if each.status == "FAILED" and each.reason == "program_failed"} == dead
    assert sum(each.status == "COMPLETED" for each in upstream) == 182
    complete(context, last)
    ((status, caveats),) = rows(context, "SELECT status, caveats FROM runs")
    assert status == "COMPLETED"
    assert "7 of 189" in caveats[0]["text"]


def _ended(item: WorkItem, *, works: bool) -> Transition:
    end = [Event.JOB_SUCCEEDED, Event.RESULTS_COLLECTED] if works else [Event.FAILED]
    events = [event_of(event) for event in (Event.JOB_SUBMITTED, *end)]
    return Transition(item.step_run_id, events, item.token, Facts(job_id=f"job-{item.job_name}"))


def test_with_fail_fast_the_map_is_skipped_before_all_are_over(context: Context) -> None:
    for wait, expected in (("fail_fast", "SKIPPED"), ("all", "PENDING")):
        run_id = start(context, visit(4, {"tolerate": 1, "wait": wait}))
        first, second, *others = claim(context)
        fail(context, first)
        fail(context, second)
        assert statuses(context, run_id)["map/main"] == expected
        for item in others:
            complete(context, item)
        for item in claim(context):
            complete(context, item)
        assert statuses(context, run_id)["map/main"] == "SKIPPED"
        text = "SELECT reason, reason_text FROM step_runs WHERE step = 'map' AND run_id = :id"
        ((reason, why),) = rows(context, text, id=run_id)
        assert reason == FailureReason.UPSTREAM_FAILED
        assert why == "blocked by baseline: 2 of 4 step runs did not complete, 1 are tolerated"
        assert rows(context, "SELECT status FROM runs WHERE id = :id", id=run_id) == [("FAILED",)]
    check_counters(context)


@pytest.mark.parametrize(("wait", "expected"), [("fail_fast", "SKIPPED"), ("all", "PENDING")])
def test_without_a_tolerance_the_first_loss_decides_unless_all_are_awaited(
    context: Context, wait: str, expected: str
) -> None:
    run_id = start(context, visit(3, {"wait": wait}))
    first, *others = claim(context)
    fail(context, first)
    assert statuses(context, run_id)["map/main"] == expected
    for item in others:
        complete(context, item)
    for item in claim(context):
        complete(context, item)
    assert statuses(context, run_id)["map/main"] == "SKIPPED"
    assert rows(context, "SELECT status FROM runs WHERE id = :id", id=run_id) == [("FAILED",)]
    check_counters(context)


def test_a_weak_edge_waits_for_the_end_only(context: Context) -> None:
    spec = {
        "name": "weak",
        "steps": [
            {"name": "first", "command": ["a"]},
            {"name": "report", "depends_on": [{"step": "first", "weak": True}], "command": ["b"]},
        ],
    }
    run_id = start(context, spec)
    (first,) = claim(context)
    assert fail(context, first).ready
    (report,) = claim(context)
    complete(context, report)
    assert rows(context, "SELECT status, n_caveats FROM runs WHERE id = :id", id=run_id) == [("COMPLETED", 1)]


def test_a_retried_loss_is_waited_for_again(context: Context) -> None:
    """The map was ready with one loss. It waits for the retry, unless it has begun."""
    run_id = start(context, visit(3, {"tolerate": 1}))
    for item in claim(context):
        (fail if item.key == "0" else complete)(context, item)
    for item in claim(context):
        complete(context, item)
    assert rows(context, "SELECT unmet, awaits FROM step_runs WHERE step = 'map'") == [(0, [])]
    context.requests.retry([run_id], actor="anna")
    assert rows(context, "SELECT unmet, caveats FROM step_runs WHERE step = 'map'") == [(1, None)]
    for _ in range(3):
        (item,) = claim(context)
        complete(context, item)
    assert rows(context, "SELECT status, n_caveats FROM runs") == [("COMPLETED", 0)]
    check_counters(context)


def test_what_was_made_without_a_loss_keeps_its_caveat_after_the_loss_is_made_good(context: Context) -> None:
    """The product lacks it for ever, whatever becomes of the loss."""
    run_id = start(context, visit(3, {"tolerate": 1}))
    for item in claim(context):
        (fail if item.key == "0" else complete)(context, item)
    for _ in range(2):
        for item in claim(context):
            complete(context, item)
    caveats = "SELECT caveats FROM step_runs WHERE step = 'map'"
    before = rows(context, caveats)
    assert rows(context, "SELECT status, n_caveats, n_completed FROM runs") == [("COMPLETED", 1, 5)]
    context.requests.retry([run_id], actor="anna")
    for _ in range(2):
        (item,) = claim(context)
        complete(context, item)
    assert rows(context, "SELECT status, n_caveats, n_completed FROM runs") == [("COMPLETED", 1, 7)]
    assert rows(context, caveats) == before
    check_counters(context)


def test_a_cancelled_run_is_cancelled(context: Context) -> None:
    run_id = start(context, visit(2, {"weak": True}))
    context.requests.cancel([run_id], actor="anna")
    assert rows(context, "SELECT status FROM runs") == [("CANCELLED",)]


def test_the_chain_to_the_root_is_named(context: Context) -> None:
    items = [1]
    steps: list[dict[str, Any]] = [{"name": "s0", "foreach": items, "command": ["a"]}]
    steps += [
        {"name": f"s{number}", "foreach": items, "depends_on": [f"s{number - 1}"], "command": ["a"]}
        for number in range(1, 10)
    ]
    context.submitter.submit(RunRequest(spec={"name": "long", "steps": steps}), actor="test")
    (item,) = claim(context)
    fail(context, item)
    texts = dict(map(tuple, rows(context, "SELECT step, reason_text FROM step_runs")))
    assert texts["s1"] == "blocked by s0/1 (FAILED: program_failed)"
    assert texts["s2"] == "blocked by s1/1, behind s0/1 (FAILED: program_failed)"
    assert texts["s9"].endswith("s0/1 (FAILED: program_failed)")
    assert len(texts["s9"]) < 200
