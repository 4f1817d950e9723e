"""Turns between projects and pipelines, and the limits of projects, in the claims of many workers."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Event as Flag
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.holds import HoldStore
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.turns import LOCK_CLAIMABLE, LOOK, TurnStore
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.lifecycle.holds import Kind, Mode
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.services.run_request import RunRequest
from tests.support.waiting import wait_until


def start(context: Context, name: str, count: int, project: str = "default", **more: Any) -> None:
    """One run with so many ready step runs."""
    resources = {"cpu": more.pop("cpu", 1)}
    spec = {
        "name": name,
        "steps": [{"name": "s", "foreach": list(range(count)), "command": ["a"], "resources": resources}],
    }
    context.submitter.submit(RunRequest(spec=spec, project=project, **more), actor="test")


def claim(context: Context, limit: int = 100, worker: str = "w") -> list[WorkItem]:
    with context.database.begin() as unit:
        return RunStore(unit).claim("noop", worker, limit, 60)


def end(context: Context, items: list[WorkItem]) -> Applied:
    events = [TransitionEvent(each, "test") for each in (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED)]
    with context.database.begin() as unit:
        return RunStore(unit).apply(
            [Transition(each.step_run_id, events, each.token, Facts(job_id=f"j-{each.job_name}")) for each in items]
        )


def pipelines(items: list[WorkItem]) -> Counter[str]:
    return Counter(item.run.pipeline for item in items)


def sql(context: Context, statement: str, **parameters: Any) -> list[Any]:
    with context.database.begin() as unit:
        found = unit.execute(statement, parameters)
        return found.all()


def limit(context: Context, project: str, **limits: Any) -> None:
    values: dict[str, Any] = {"weight": 1, "max_live": None, "max_cpus": None, **limits}
    sql(
        context,
        "INSERT INTO projects (name, weight, max_live, max_cpus) VALUES (:name, :weight, :max_live, :max_cpus)"
        " ON CONFLICT (name) DO UPDATE SET weight = excluded.weight, max_live = excluded.max_live,"
        " max_cpus = excluded.max_cpus",
        name=project,
        **values,
    )


# --- turns ------------------------------------------------------------------------------------------------------------


def test_a_backfill_holds_up_a_later_run_by_at_most_one_batch(context: Context) -> None:
    start(context, "backfill", 5000)
    assert pipelines(claim(context)) == {"backfill": 100}
    start(context, "tonight", 150)
    later = [pipelines(claim(context)) for _ in range(4)]
    assert sum(later[:2], Counter())["tonight"] >= 100
    assert sum(later, Counter())["tonight"] == 150


def test_what_was_away_has_no_credit(context: Context) -> None:
    """A pipeline that had nothing ready for long takes turns with the others, and does not make up for it."""
    start(context, "early", 20)
    start(context, "steady", 5000)
    for _ in range(20):
        claim(context)
    start(context, "early", 2000)
    counts = sum((pipelines(claim(context)) for _ in range(10)), Counter[str]())
    assert counts == {"early": 500, "steady": 500}


def test_shares_follow_the_weights_of_projects(context: Context) -> None:
    limit(context, "heavy", weight=3)
    for project in ("heavy", "light"):
        for name in ("a", "b"):
            start(context, f"{project}-{name}", 1000, project)
    counts = sum((pipelines(claim(context, 5)) for _ in range(200)), Counter[str]())
    assert counts["heavy-a"] + counts["heavy-b"] == pytest.approx(750, abs=10)
    assert counts["heavy-a"] == pytest.approx(counts["heavy-b"], abs=10)
    assert counts["light-a"] == pytest.approx(counts["light-b"], abs=10)


def test_priorities_count_inside_a_pipeline(context: Context) -> None:
    start(context, "a", 50, priority=1)
    start(context, "b", 50, priority=900)
    start(context, "a", 50, priority=5)
    first, second = claim(context, 10), claim(context, 10)
    assert {*pipelines(first), *pipelines(second)} == {"a", "b"}
    assert {item.priority for item in (*first, *second) if item.run.pipeline == "a"} == {5}


def test_a_claim_is_filled_from_many_pipelines(context: Context) -> None:
    for number in range(30):
        start(context, f"p{number}", 1)
    assert len(claim(context, 25)) == 25
    assert len(claim(context, 25)) == 5
    assert claim(context, 25) == []


def test_no_claim_goes_through_the_waiting_step_runs(context: Context) -> None:
    """With 9,000 of them in three lanes and 500 open breakers, index scans alone are used, and few rows are read."""
    for name in ("a", "b", "c"):
        start(context, name, 3000)
    sql(
        context,
        "INSERT INTO breakers (breaker_key, pipeline, step, failure_signature, reason_text, opened_at, probe, probe_at)"
        " SELECT gen_random_uuid(), 'p', 's', 'f', 't', now(), gen_random_uuid(), now() + interval '1 hour'"
        " FROM generate_series(1, 500)",
    )
    sql(context, "ANALYZE step_runs, breakers")
    lanes = [row[0] for row in sql(context, "SELECT id FROM lanes")]
    values = {"backend": "noop", "worker": "w", "lanes": lanes, "limit": 200, "most_cpus": None}
    for statement in (LOOK, LOCK_CLAIMABLE):
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        with context.database.begin() as unit:
            [plan] = unit.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", used).one()
        nodes = list(_nodes(plan[0]["Plan"]))
        on_step_runs = [node for node in nodes if node.get("Relation Name") == "step_runs"]
        assert on_step_runs
        assert {node["Node Type"] for node in on_step_runs} <= {"Index Scan", "Index Only Scan"}
        assert sum(node["Actual Rows"] * node["Actual Loops"] for node in on_step_runs) <= 210


def _nodes(plan: dict[str, Any]) -> Any:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


# --- holds ------------------------------------------------------------------------------------------------------------


def hold(context: Context, kind: Kind, name: str, until: datetime | None = None) -> None:
    with context.database.begin() as unit:
        HoldStore(unit).set(kind, name, Mode.PAUSE, "maintenance", "anna", until)


@pytest.mark.parametrize(
    ("kind", "name", "left"),
    [
        (Kind.PROJECT, "one", {"b", "c"}),
        (Kind.PIPELINE, "a", {"a", "b", "c"}),  # a registered one has this name, not these inline ones
        (Kind.BACKEND, "noop", set()),
        (Kind.BACKEND, "local", {"a", "b", "c"}),
        (Kind.SERVICE, "", set()),
    ],
)
def test_a_hold_keeps_what_it_names_from_starting(context: Context, kind: Kind, name: str, left: set[str]) -> None:
    for pipeline, project in (("a", "one"), ("b", "two"), ("c", "two")):
        start(context, pipeline, 2, project)
    hold(context, kind, name)
    assert set(pipelines(claim(context))) == left
    sql(context, "UPDATE holds SET until = now()")
    assert set(pipelines(claim(context))) == {"a", "b", "c"} - left


def test_no_claim_misses_a_hold_that_was_acknowledged(context: Context) -> None:
    start(context, "a", 2000)
    stop, claims = Flag(), []

    def work(worker: int) -> None:
        while not stop.is_set():
            with context.database.begin() as unit:
                claims.append(len(RunStore(unit).claim("noop", f"w{worker}", 3, 60)))

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, number) for number in range(4)]
        wait_until(lambda: sum(claims) > 30, what="claims")
        hold(context, Kind.SERVICE, "")
        [(claimed,)] = sql(context, "SELECT count(*) FROM step_runs WHERE status <> 'PENDING'")
        until = len(claims) + 20
        wait_until(lambda: len(claims) > until, what="more claims")
        stop.set()
        for each in workers:
            each.result()
    assert sql(context, "SELECT count(*) FROM step_runs WHERE status <> 'PENDING'") == [(claimed,)]
    assert claimed < 2000


def test_a_drain_after_the_first_look_of_a_claim_counts(context: Context) -> None:
    start(context, "a", 2)
    with context.database.begin() as unit:
        WorkerStore(unit).register("w", "host", 1, ["noop"])
    with context.database.begin() as unit:
        turns = TurnStore(unit, "noop", "w")
        assert not turns.look().drained
        with context.database.begin() as other:
            WorkerStore(other).drain("w", "anna", None)
        assert turns.lock_next(10) == []


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_limit_of_live_step_runs_leaves_the_turn_to_others(context: Context) -> None:
    limit(context, "small", max_live=7)
    start(context, "a", 50, "small")
    start(context, "b", 50, "other")
    first = claim(context, 40)
    second = claim(context, 40)
    assert pipelines(first) + pipelines(second) == {"a": 7, "b": 50}
    ended = end(context, [item for item in (*first, *second) if item.run.pipeline == "a"][:3])
    assert ended.ready["noop"] == 3  # a worker is rung for the room that they make
    assert end(context, [item for item in second if item.run.pipeline == "b"]).ready == {}
    assert pipelines(claim(context, 40)) == {"a": 3}


def test_a_limit_of_cpus_keeps_the_order(context: Context) -> None:
    limit(context, "small", max_cpus=10)
    start(context, "a", 1, "small", cpu=4, priority=5)
    start(context, "a", 1, "small", cpu=8, priority=4)
    start(context, "a", 9, "small", cpu=1, priority=3)
    start(context, "a", 1, "small", cpu=11, priority=9)  # never fits
    first = claim(context)
    assert [item.resources.cpu for item in first] == [4]
    assert claim(context) == []  # the one with 8 is next, so the small ones behind it wait
    end(context, first)
    assert sorted(item.resources.cpu for item in claim(context)) == [1, 1, 8]


def test_many_workers_never_pass_a_limit(context: Context) -> None:
    limit(context, "small", max_live=25, max_cpus=40)
    start(context, "a", 200, "small", cpu=1)
    start(context, "b", 200, "small", cpu=3)
    start(context, "c", 60, "other")
    in_use = "SELECT count(*), COALESCE(sum((s.resources ->> 'cpu')::float), 0) FROM step_runs s JOIN lanes l" \
        " ON l.id = s.lane WHERE l.project = 'small' AND s.status = 'STAGING_DATA'"  # fmt: skip
    most = []

    def work(worker: int) -> int:
        done = 0
        for _ in range(6):
            items = claim(context, 9, f"w{worker}")
            most.append(sql(context, in_use)[0])
            end(context, items)
            done += len(items)
        return done

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) > 100
    assert max(live for live, _ in most) <= 25
    assert max(cpus for _, cpus in most) <= 40
