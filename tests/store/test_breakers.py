"""Circuit breakers in PostgreSQL: when they open, what they hold back, and what closes them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.queries.breakers import breaker_detail
from ccat_workflow_manager.db.queries.runs import run_detail
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.work_items import launchable
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.breaker import BreakerPolicy
from ccat_workflow_manager.lifecycle.models import Facts, Resources, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.overrides import Term
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.services.breakers import Breakers
from ccat_workflow_manager.services.run_request import RunRequest
from tests.support.fixtures_store import ContextMaker

POLICY = BreakerPolicy(failures=3, window_seconds=600, probe_seconds=900)


def start(context: Context, items: int = 10, image: str = "calib-1.sif", **step: Any) -> UUID:
    fan = {"name": "calibrate", "foreach": list(range(items)), "image": image, "command": ["calibrate"], **step}
    run_id, *_ = context.submitter.submit(RunRequest(spec={"name": "chai", "steps": [fan]}), actor="test")
    return run_id


def claim(context: Context, limit: int = 1) -> list[WorkItem]:
    with context.database.begin() as unit:
        return RunStore(unit).claim("noop", "w1", limit, 20)


def write(context: Context, *transitions: Transition, policy: BreakerPolicy = POLICY) -> Applied:
    with context.database.begin() as unit:
        return RunStore(unit, policy).apply(transitions)


def failure(
    item: WorkItem, exit_code: int = 3, reason: FailureReason = FailureReason.PROGRAM_FAILED, *more: TransitionEvent
) -> Transition:
    events = [
        TransitionEvent(Event.JOB_SUBMITTED, "test"),
        TransitionEvent(Event.FAILED, "test", reason, "it failed"),
        *more,
    ]
    return Transition(item.step_run_id, events, item.token, Facts(job_id=f"job {item.job_name}", exit_code=exit_code))


def success(item: WorkItem) -> Transition:
    events = (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED, Event.RESULTS_COLLECTED)
    return Transition(
        item.step_run_id, [TransitionEvent(event, "test") for event in events], item.token, Facts(job_id=item.job_name)
    )


def trip(context: Context, policy: BreakerPolicy = POLICY) -> None:
    for item in claim(context, policy.failures):
        write(context, failure(item), policy=policy)


def rows(context: Context, sql: str, **parameters: Any) -> list[Any]:
    with context.database.read() as unit:
        return list(unit.execute(sql, parameters).all())


def breaker(context: Context) -> Any:
    found = rows(context, "SELECT * FROM breakers")
    assert len(found) <= 1
    return found[0] if found else None


def events(context: Context) -> list[str]:
    return [row[0] for row in rows(context, "SELECT event FROM breaker_events ORDER BY id")]


def let_probe(context: Context) -> None:
    """Make the next probe due."""
    with context.database.begin() as unit:
        unit.execute("UPDATE breakers SET probe_at = now()")


def test_an_open_breaker_holds_back_the_rest_with_a_reason(context: Context) -> None:
    run_id = start(context)
    trip(context)
    assert claim(context, 10) == []
    found = breaker(context)
    assert found.opened_at is not None
    assert found.reason_text == (
        "3 of the last 3 step runs of chai/calibrate with the image calib-1.sif failed the same way"
        " (program_failed, exit code 3) within 10 min"
    )
    with context.database.read() as unit:
        detail = run_detail(unit, run_id)
        assert launchable(unit, "noop", 10) == 0
        assert [each.ready for each in BackendStore(unit).workloads()] == [0]
    assert detail is not None
    shown = detail.text()
    assert shown.count(f"held back: {found.reason_text}; one of them is launched as a probe after ") == 7
    assert f"release with `ccat-wm breakers release {found.breaker_key}`" in shown
    assert events(context) == ["opened"]


def test_two_failures_are_not_three(context: Context) -> None:
    start(context)
    trip(context, BreakerPolicy(failures=2, probe_seconds=0))
    assert breaker(context).probe_at is None
    start(context, image="calib-2.sif")
    items = claim(context, 2)
    for item in items:
        write(context, failure(item))
    assert len(claim(context, 20)) == 8


def test_attempts_of_one_step_run_count_once(context: Context) -> None:
    start(context, items=2, retry={"max_attempts": 9, "on": ["program_failed"]})
    for _ in range(4):
        (item,) = claim(context)
        write(context, failure(item, 3, FailureReason.PROGRAM_FAILED, TransitionEvent(Event.RETRIED, "policy")))
    assert breaker(context).opened_at is None
    assert len(breaker(context).failures) == 1


def test_failures_of_different_kinds_do_not_add_up(context: Context) -> None:
    start(context)
    for exit_code in (1, 2, 3, 1, 2):
        (item,) = claim(context)
        write(context, failure(item, exit_code))
    assert breaker(context).opened_at is None
    (item,) = claim(context)
    write(context, failure(item, 1))
    assert breaker(context).reason_text.startswith("3 of the last 6 step runs of chai/calibrate ")


@pytest.mark.parametrize(
    "reason", [FailureReason.NODE_FAILURE, FailureReason.LOST, FailureReason.DISK_FULL, FailureReason.INPUT_MISSING]
)
def test_failures_without_a_cause_in_the_step_do_not_count(context: Context, reason: FailureReason) -> None:
    start(context)
    for item in claim(context, 5):
        write(context, failure(item, 0, reason))
    assert breaker(context) is None


def test_out_of_memory_counts_once_there_is_no_more_memory(context: Context) -> None:
    start(context)
    more = TransitionEvent(Event.RETRIED, "retry policy", resources=Resources(memory_gb=8))
    for item in claim(context, 5):
        write(context, failure(item, 137, FailureReason.OUT_OF_MEMORY, more))
    assert breaker(context) is None
    for item in claim(context, 3):
        write(context, failure(item, 137, FailureReason.OUT_OF_MEMORY))
    assert breaker(context).failure_signature == "out_of_memory"


def test_a_success_resets_the_count(context: Context) -> None:
    start(context)
    first, second, third, fourth, fifth = claim(context, 5)
    write(context, failure(first), failure(second))
    write(context, success(third))
    assert breaker(context) is None
    write(context, failure(fourth))
    # In one transaction with a success the order is unknown.
    write(context, failure(fifth), success(claim(context)[0]))
    assert breaker(context) is None
    assert events(context) == []


def test_a_success_of_a_running_step_run_closes_it(context: Context) -> None:
    start(context)
    running = claim(context, 4)
    for item in running[:3]:
        write(context, failure(item))
    assert claim(context) == []
    done = write(context, success(running[3]))
    assert breaker(context) is None
    assert done.ready["noop"] == 6
    assert len(claim(context, 10)) == 6
    assert events(context) == ["opened", "closed"]


def test_another_image_or_definition_is_claimed(context: Context) -> None:
    start(context)
    trip(context)
    start(context, items=2)
    assert claim(context, 10) == []
    start(context, items=2, image="calib-2.sif")
    assert len(claim(context, 10)) == 2
    start(context, items=2, resources={"memory_gb": 16})
    assert len(claim(context, 10)) == 2


def test_the_key_follows_an_image_with_parameters_and_items(context: Context) -> None:
    spec = {
        "name": "chai",
        "parameters": {"type": "object", "properties": {"v": {}}},
        "steps": [
            {"name": "a", "image": "a-${parameters.v}.sif", "command": ["a"]},
            {"name": "b", "image": "b-${item}.sif", "foreach": [1, 2], "command": ["b"]},
        ],
    }
    for version in (1, 1, 2):
        context.submitter.submit(RunRequest(spec=spec, parameters={"v": version}), actor="test")
    keys = rows(context, "SELECT step, count(*), count(DISTINCT breaker_key) FROM step_runs GROUP BY 1 ORDER BY 1")
    assert keys == [("a", 3, 2), ("b", 6, 2)]
    images = rows(context, "SELECT image FROM run_steps ORDER BY image")
    assert [row[0] for row in images] == ["a-1.sif", "a-1.sif", "a-2.sif"] + ["b-${item}.sif"] * 3


def test_one_probe_at_a_time_and_a_failure_keeps_it_open(context: Context) -> None:
    start(context)
    trip(context)
    let_probe(context)
    with context.database.read() as unit:
        assert launchable(unit, "noop", 10) > 0
    (probe,) = claim(context, 10)
    assert breaker(context).probe == probe.step_run_id
    assert claim(context, 10) == []
    write(context, failure(probe))
    assert breaker(context).probe is None
    assert claim(context, 10) == []
    let_probe(context)
    (probe,) = claim(context, 10)
    write(context, success(probe))
    assert len(claim(context, 10)) == 5
    assert events(context) == ["opened", "probed", "probed", "closed"]


def test_a_probe_that_fails_otherwise_is_not_followed_by_all_the_others(context: Context) -> None:
    """As on a full disk, which does not count and would fail each of them in turn."""
    start(context)
    trip(context)
    let_probe(context)
    (probe,) = claim(context, 10)
    write(context, failure(probe, reason=FailureReason.DISK_FULL))
    assert claim(context, 10) == []
    with context.database.read() as unit:
        assert launchable(unit, "noop", 10) == 0
        assert '"state":"open"' in (breaker_detail(unit, breaker(context).breaker_key) or "")
    let_probe(context)
    assert len(claim(context, 10)) == 1


def test_a_cancelled_probe_is_followed_by_another(context: Context) -> None:
    start(context)
    trip(context)
    let_probe(context)
    (probe,) = claim(context, 10)
    # A released probe is still the probe.
    write(
        context, Transition(probe.step_run_id, [TransitionEvent(Event.RELEASED, "sweep", delay_seconds=0)], probe.token)
    )
    (again,) = claim(context, 10)
    assert again.step_run_id == probe.step_run_id
    # A cancelled probe has no result, so the next claim takes another one.
    write(
        context,
        Transition(again.step_run_id, [TransitionEvent(Event.CANCELLED, "test", FailureReason.CANCELLED)], again.token),
    )
    (other,) = claim(context, 10)
    assert other.step_run_id != probe.step_run_id
    assert breaker(context).probe == other.step_run_id


def test_a_release_makes_all_claimable_and_resets_the_count(context: Context) -> None:
    start(context)
    trip(context)
    text = context.breakers.release(breaker(context).breaker_key, Term("operator"))
    assert '"held_back":7' in text
    assert len(claim(context, 5)) == 5
    assert events(context) == ["opened", "released"]
    with pytest.raises(NotFound):
        context.breakers.release(UUID(int=1), Term("operator"))


def test_the_sweep_removes_stale_breakers_and_all_if_switched_off(context: Context) -> None:
    start(context)
    write(context, failure(claim(context)[0]))
    context.breakers.sweep()
    assert breaker(context) is not None
    with context.database.begin() as unit:
        unit.execute("UPDATE breakers SET updated_at = now() - interval '11 minutes'")
    context.breakers.sweep()
    assert breaker(context) is None
    trip(context)
    context.breakers.sweep()
    assert claim(context) == []
    Breakers(context.database, context.doorbell, BreakerPolicy(failures=0)).sweep()
    assert claim(context) != []
    assert events(context) == ["opened", "released"]


def test_failures_outside_the_window_do_not_count(context: Context) -> None:
    start(context)
    for item in claim(context, 2):
        write(context, failure(item))
    with context.database.begin() as unit:
        unit.execute(
            "UPDATE breakers SET failures = (SELECT jsonb_agg(jsonb_set(f, '{2}',"
            " to_jsonb((now() - interval '11 minutes')::text))) FROM jsonb_array_elements(failures) f)"
        )
    write(context, failure(claim(context)[0]))
    assert breaker(context).opened_at is None
    assert len(breaker(context).failures) == 1


def test_concurrent_failures_open_it_once(make_context: ContextMaker) -> None:
    first, second = make_context("noop"), make_context("noop")
    start(first, items=100)
    start(first, items=100, image="other.sif")
    work = [(context, item) for context in (first, second) for item in claim(context, 60)]

    def fail(each: tuple[Context, WorkItem]) -> None:
        context, item = each
        context.database.transact(
            "commit.news", lambda unit: RunStore(unit, BreakerPolicy(failures=20)).apply([failure(item)])
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fail, work))
    opened = rows(first, "SELECT breaker_key, jsonb_array_length(failures) FROM breakers WHERE opened_at IS NOT NULL")
    assert [count for _, count in opened] == [20] * len(opened)
    assert len(opened) >= 1
    assert events(first) == ["opened"] * len(opened)


def test_concurrent_writers_of_several_breakers_do_not_deadlock(make_context: ContextMaker) -> None:
    """Breakers are created and removed while four writers write several of them at a time."""
    contexts = [make_context("noop") for _ in range(4)]
    fan = [{"name": "warm", "image": f"{name}.sif", "command": ["a"], "foreach": list(range(100))} for name in "abcd"]
    for step in fan:
        contexts[0].submitter.submit(RunRequest(spec={"name": "chai", "steps": [step]}), actor="test")
    by_run: dict[str, list[WorkItem]] = {}
    for item in claim(contexts[0], 400):
        by_run.setdefault(str(item.run.run_id), []).append(item)
    work = [list(items) for items in zip(*by_run.values(), strict=True)]

    def end(number: int) -> None:
        chance = random.Random(number)
        transitions = [success(item) if chance.random() < 0.4 else failure(item) for item in work[number]]
        write(contexts[number % 4], *chance.sample(transitions, 3), policy=BreakerPolicy(failures=5))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end, range(len(work))))
    assert rows(contexts[0], "SELECT DISTINCT status FROM step_runs WHERE status = 'SUBMITTED'") == []


def test_concurrent_claims_and_ends_do_not_deadlock(make_context: ContextMaker) -> None:
    contexts = [make_context("noop") for _ in range(4)]
    start(contexts[0], items=200)
    policy = BreakerPolicy(failures=2, probe_seconds=0.001)

    def work(context: Context) -> int:
        done = 0
        while items := claim(context, 5):
            done += len(items)
            ends = [success(item) if item.position == 0 and int(item.key) % 7 == 0 else failure(item) for item in items]
            write(context, *ends, policy=policy)
        return done

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, contexts)) > 0
    while rest := [work(context) for context in contexts]:
        if not sum(rest):
            break
    assert {"opened"} <= set(events(contexts[0]))
