"""`RunStore` on PostgreSQL: transitions, refusals, counters."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.runs import Applied, RunStore
from ccat_workflow_manager.db.sql_errors import RowRefused
from ccat_workflow_manager.db.work_items import load_items
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import (
    Facts,
    Lease,
    NewProduct,
    Resources,
    Transition,
    TransitionEvent,
    WorkItem,
)
from ccat_workflow_manager.lifecycle.states import FINISHED, LIVE, TRANSITIONS, Event, Status, next_status, run_status
from ccat_workflow_manager.services.run_request import RunRequest
from tests.support.waiting import PATIENCE, wait_until

DIAMOND: dict[str, Any] = {
    "name": "diamond",
    "parameters": {"type": "object", "properties": {"scans": {"type": "array"}}},
    "steps": [
        {"name": "first", "foreach": "${parameters.scans}", "command": ["a"]},
        {"name": "second", "foreach": "${parameters.scans}", "depends_on": ["first"], "command": ["b"]},
        {"name": "third", "depends_on": ["second"], "command": ["c"]},
        {"name": "alone", "command": ["d"]},
    ],
}

SINGLE = {"name": "single", "steps": [{"name": "only", "command": ["a"]}]}


def start(context: Context, spec: dict[str, Any] = DIAMOND, **parameters: Any) -> UUID:
    run_id, *_ = context.submitter.submit(RunRequest(spec=spec, parameters=parameters), actor="test")
    return run_id


def claim(context: Context, limit: int = 100, worker: str = "w1", seconds: float = 20) -> list[WorkItem]:
    with context.database.begin() as unit:
        return RunStore(unit).claim("noop", worker, limit, seconds)


def apply(context: Context, *transitions: Transition) -> Applied:
    with context.database.begin() as unit:
        return RunStore(unit).apply(transitions)


def event_of(event: Event, **more: Any) -> TransitionEvent:
    if event in (Event.FAILED, Event.SKIPPED):
        more.setdefault("reason", FailureReason.PROGRAM_FAILED)
    return TransitionEvent(event, actor="test", **more)


def complete(context: Context, item: WorkItem) -> Applied:
    events = [event_of(Event.JOB_SUBMITTED), event_of(Event.JOB_SUCCEEDED), event_of(Event.RESULTS_COLLECTED)]
    return apply(context, Transition(item.step_run_id, events, item.token, Facts(job_id=f"job-{item.job_name}")))


def rows(context: Context, sql: str, **parameters: Any) -> list[Any]:
    with context.database.read() as unit:
        return list(unit.execute(sql, parameters).all())


def statuses(context: Context, run_id: UUID) -> dict[str, str]:
    found = rows(context, "SELECT step || '/' || key, status FROM step_runs WHERE run_id = :id ORDER BY id", id=run_id)
    return dict(map(tuple, found))


def check_counters(context: Context) -> None:
    """The counters and the status of every run agree with its step runs."""
    for run in rows(context, "SELECT * FROM runs"):
        counts = Counter(
            {Status(s): n for s, n in rows(
                context, "SELECT status, count(*) FROM step_runs WHERE run_id = :id GROUP BY 1", id=run.id)}
        )  # fmt: skip
        for status in Status:
            assert getattr(run, f"n_{status.lower()}") == counts[status], status
        assert run.status == run_status(counts)
        assert (run.finished_at is not None) == (not set(counts) - FINISHED)


def test_a_run_goes_through_its_dag(context: Context) -> None:
    run_id = start(context, scans=["x", "y"])
    items = claim(context)
    assert sorted((item.step, item.key) for item in items) == [("alone", "main"), ("first", "x"), ("first", "y")]
    assert claim(context) == []
    by_name = {(item.step, item.key): item for item in items}
    assert complete(context, by_name["first", "x"]).ready.keys() == {"noop"}
    second = claim(context)
    assert [(item.step, item.key) for item in second] == [("second", "x")]
    assert complete(context, second[0]).ready == {}
    complete(context, by_name["alone", "main"])
    complete(context, by_name["first", "y"])
    (other,) = claim(context)
    assert complete(context, other).ready
    (third,) = claim(context)
    assert third.step == "third"
    done = complete(context, third)
    assert done.finished_runs == [run_id]
    check_counters(context)
    assert set(statuses(context, run_id).values()) == {"COMPLETED"}


def test_runs_of_one_request_are_like_runs_of_their_own(context: Context) -> None:
    """Of runs with the same plan, the steps are sent to PostgreSQL once; these differ in every way that counts."""
    tolerant = {
        "name": "tolerant",
        "parameters": {"type": "object", "properties": {"scans": {"type": "array"}, "tag": {"type": "string"}}},
        "steps": [
            {
                "name": "first",
                "foreach": "${parameters.scans}",
                "image": "/sif/a-${parameters.tag}.sif",
                "command": ["a"],
            },
            {"name": "second", "depends_on": [{"step": "first", "tolerate": "50%"}], "command": ["b"]},
        ],
    }
    unordered = {**DIAMOND, "steps": [{**step, "depends_on": []} for step in DIAMOND["steps"]]}
    requests = [
        RunRequest(spec=spec, parameters={"scans": scans, **tag}, priority=priority, backend=backend)
        for spec, tags in ((DIAMOND, [{}]), (unordered, [{}]), (tolerant, [{"tag": "1"}, {"tag": "2"}]))
        for tag in tags
        for scans in ([], ["x"], ["x", "y"], ["z", "y"])
        for priority in (0, 3)
        for backend in (None, "local")
    ]
    random.Random(1).shuffle(requests)
    alone = [context.submitter.submit(request, actor="test")[0] for request in requests]
    together, _ = context.submitter.submit_bulk(requests, actor="test")
    assert [written(context, run_id) for run_id in together] == [written(context, run_id) for run_id in alone]


def written(context: Context, run_id: UUID) -> list[Any]:
    """The rows of a run, without its ids and times."""
    steps = "SELECT to_jsonb(t) - 'run_id' FROM run_steps t WHERE run_id = :id ORDER BY position"
    step_runs = "SELECT to_jsonb(t) - '{id,run_id,created_at}'::text[] FROM step_runs t WHERE run_id = :id ORDER BY id"
    return [row[0] for sql in (steps, step_runs) for row in rows(context, sql, id=run_id)]


def test_a_failure_skips_its_dependents_and_nothing_else(context: Context) -> None:
    run_id = start(context, scans=["x", "y"])
    by_name = {(item.step, item.key): item for item in claim(context)}
    bad = by_name["first", "x"]
    apply(context, Transition(bad.step_run_id, [event_of(Event.FAILED, text="no such file")], bad.token))
    complete(context, by_name["first", "y"])
    assert statuses(context, run_id) == {
        "first/x": "FAILED", "first/y": "COMPLETED", "second/x": "SKIPPED", "second/y": "PENDING",
        "third/main": "SKIPPED", "alone/main": "STAGING_DATA",
    }  # fmt: skip
    ((reason, text),) = rows(
        context, "SELECT reason, reason_text FROM step_runs WHERE run_id = :id AND step = 'third'", id=run_id
    )
    assert reason == "upstream_failed"
    assert text == "blocked by second/x, behind first/x (FAILED: program_failed)"
    (second,) = claim(context)
    complete(context, second)
    complete(context, by_name["alone", "main"])
    ((status, why),) = rows(context, "SELECT status, status_reason FROM runs WHERE id = :id", id=run_id)
    assert status == "FAILED"
    assert why == "first/x: program_failed: no such file"
    check_counters(context)


def test_a_retry_reopens_skipped_step_runs(context: Context) -> None:
    run_id = start(context, scans=["x", "y"])
    items = claim(context)
    for item in items:
        apply(context, Transition(item.step_run_id, [event_of(Event.FAILED)], item.token))
    assert context.requests.retry([run_id], actor="test") == {run_id: 6}
    check_counters(context)
    while items := claim(context):
        for item in items:
            assert item.attempt == 2 if item.step in ("first", "alone") else 1
            complete(context, item)
    assert rows(context, "SELECT status, status_reason FROM runs WHERE id = :id", id=run_id) == [("COMPLETED", None)]
    check_counters(context)


def test_a_fan_in_stays_skipped_until_all_failures_are_retried(context: Context) -> None:
    run_id = start(context, scans=["x", "y"])
    failed = {}
    for item in claim(context):
        if item.step == "first":
            apply(context, Transition(item.step_run_id, [event_of(Event.FAILED)], item.token))
            failed[item.key] = item.step_run_id
    context.requests.retry_step_runs([failed["x"]], actor="test")
    now = statuses(context, run_id)
    assert (now["first/x"], now["second/x"], now["second/y"], now["third/main"]) == (
        "PENDING", "PENDING", "SKIPPED", "SKIPPED",
    )  # fmt: skip
    context.requests.retry_step_runs([failed["y"]], actor="test")
    assert statuses(context, run_id)["third/main"] == "PENDING"
    check_counters(context)


def test_a_late_writer_is_refused(context: Context) -> None:
    start(context, scans=["x"])
    item = claim(context, limit=1)[0]
    apply(context, Transition(item.step_run_id, [event_of(Event.RELEASED, text="gone")], item.token))
    again = claim(context, limit=1, worker="w2")[0]
    assert (again.step_run_id, again.attempt, again.claims) == (item.step_run_id, 1, 2)
    late = apply(
        context, Transition(item.step_run_id, [event_of(Event.JOB_SUBMITTED)], item.token, Facts(job_id="late"))
    )
    assert late.applied == []
    assert late.refused == {item.step_run_id: "another worker has taken it over"}
    check_counters(context)


def test_a_repeated_transition_is_refused(context: Context) -> None:
    start(context, scans=["x"])
    item = claim(context, limit=1)[0]
    assert complete(context, item).applied == [item.step_run_id]
    second = complete(context, item)
    assert second.applied == []
    assert "COMPLETED" in second.refused[item.step_run_id]
    assert len(rows(context, "SELECT 1 FROM events WHERE step_run_id = :id", id=item.step_run_id)) == 5


def test_claims_go_by_priority_and_skip_paused_runs(context: Context) -> None:
    low, *_ = context.submitter.submit(RunRequest(spec=SINGLE, priority=-5), actor="t")
    high, *_ = context.submitter.submit(RunRequest(spec=SINGLE, priority=5), actor="t")
    held, *_ = context.submitter.submit(RunRequest(spec=SINGLE, priority=9), actor="t")
    context.requests.pause([held], paused=True)
    assert [item.run.run_id for item in claim(context)] == [high, low]
    context.requests.pause([held], paused=False)
    assert [item.run.run_id for item in claim(context)] == [held]


def test_backoff_is_counted_by_the_database(context: Context) -> None:
    start(context, SINGLE)
    item = claim(context)[0]
    retried = event_of(Event.RETRIED, text="again", delay_seconds=3600, resources=Resources(memory_gb=8))
    apply(
        context,
        Transition(item.step_run_id, [event_of(Event.FAILED, reason=FailureReason.OUT_OF_MEMORY), retried], item.token),
    )
    assert claim(context) == []
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET not_before = now() - interval '1 second'")
    (again,) = claim(context)
    assert again.resources.memory_gb == 8
    assert again.attempt == 2
    assert rows(context, "SELECT number, reason, resources->>'memory_gb' FROM attempts ORDER BY number") == [
        (1, "out_of_memory", "2"), (2, None, "8"),
    ]  # fmt: skip
    check_counters(context)


def test_products_are_written_with_their_transition(context: Context) -> None:
    start(context, SINGLE)
    item = claim(context)[0]
    product = NewProduct("map.png", "PLOT", "plots/map.png", 10, "0" * 64)
    late = Transition(item.step_run_id, [event_of(Event.RESULTS_COLLECTED)], item.token, products=[product])
    assert apply(context, late).applied == []
    assert rows(context, "SELECT 1 FROM products") == []
    events = [event_of(Event.JOB_SUBMITTED), event_of(Event.JOB_SUCCEEDED), event_of(Event.RESULTS_COLLECTED)]
    apply(context, Transition(item.step_run_id, events, item.token, Facts(job_id="j"), products=[product]))
    assert rows(context, "SELECT name, attempt FROM products") == [("map.png", 1)]


def test_unclaimed_step_runs_are_cancelled_at_once(context: Context) -> None:
    run_id = start(context, scans=["x", "y"])
    claim(context, limit=1)
    context.requests.cancel([run_id], actor="anna")
    now = Counter(statuses(context, run_id).values())
    assert now == {"CANCELLED": 5, "STAGING_DATA": 1}
    assert rows(context, "SELECT DISTINCT cancel_requested_by FROM step_runs") == [("anna",)]
    check_counters(context)


def test_a_cancel_wins_over_a_retry(context: Context) -> None:
    run_id = start(context, scans=["x"])
    [item] = claim(context, limit=1)
    apply(context, Transition(item.step_run_id, [event_of(Event.JOB_SUBMITTED)], item.token, Facts(job_id="1")))
    context.requests.cancel([run_id], actor="anna")
    failure = event_of(Event.FAILED, reason=FailureReason.NODE_FAILURE, text="the node is gone")
    done = apply(context, Transition(item.step_run_id, [failure, event_of(Event.RETRIED)], item.token))
    assert done.applied == [item.step_run_id]
    assert statuses(context, run_id)[f"{item.step}/{item.key}"] == "CANCELLED"
    check_counters(context)


def test_a_cancel_of_several_runs_locks_them_in_the_order_of_their_ids(context: Context) -> None:
    """While it waits for the first run it does not hold the second."""
    first, second = start(context, SINGLE), start(context, SINGLE)
    claim(context, limit=1)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as threads:
        with context.database.begin() as unit:
            lock = "SELECT 1 FROM runs WHERE id = :id FOR NO KEY UPDATE NOWAIT"
            unit.execute(lock, {"id": first})
            done = threads.submit(context.requests.cancel, [second, first], actor="anna")
            wait_until(lambda: rows(context, waiting) != [])
            unit.execute(lock, {"id": second})
        done.result(PATIENCE)
    assert rows(context, "SELECT status, cancel_requested_at IS NOT NULL FROM runs ORDER BY id") == [
        ("RUNNING", True),
        ("CANCELLED", True),
    ]
    check_counters(context)


def test_cancelling_a_finished_run_changes_nothing(context: Context) -> None:
    run_id = start(context, SINGLE)
    complete(context, claim(context)[0])
    before = rows(context, "SELECT * FROM runs WHERE id = :id", id=run_id)
    context.requests.cancel([run_id], actor="test")
    assert rows(context, "SELECT * FROM runs WHERE id = :id", id=run_id) == before


def test_exactly_the_transitions_of_the_table_are_applied(context: Context) -> None:
    """Bring a step run into each status and try each event."""
    for status in Status:
        for event in set(Event) - {Event.CREATED}:
            item = _bring_to(context, start(context, SINGLE), status)
            facts = Facts(job_id=f"job-{item.step_run_id}")
            done = apply(context, Transition(item.step_run_id, [event_of(event)], item.token, facts, Lease("w", 10)))
            with context.database.read() as unit:
                (after,) = load_items(unit, [item.step_run_id])
            if (status, event) in TRANSITIONS:
                assert done.applied == [item.step_run_id], (status, event)
                assert after.status is next_status(status, event)
            else:
                assert done.applied == [], (status, event)
                assert after.status is status
    check_counters(context)


_EVENTS_TO = {
    Status.PENDING: [],
    Status.STAGING_DATA: [Event.CLAIMED],
    Status.SUBMITTED: [Event.CLAIMED, Event.JOB_SUBMITTED],
    Status.RUNNING: [Event.CLAIMED, Event.JOB_SUBMITTED, Event.JOB_STARTED],
    Status.COLLECTING_RESULTS: [Event.CLAIMED, Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED],
    Status.COMPLETED: [Event.CLAIMED, Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED, Event.RESULTS_COLLECTED],
    Status.FAILED: [Event.CLAIMED, Event.FAILED],
    Status.CANCELLED: [Event.CANCELLED],
    Status.SKIPPED: [Event.SKIPPED],
}


def _bring_to(context: Context, run_id: UUID, status: Status) -> WorkItem:
    ((step_run_id,),) = rows(context, "SELECT id FROM step_runs WHERE run_id = :id", id=run_id)
    if _EVENTS_TO[status]:
        facts = Facts(job_id=f"job-{step_run_id}")
        transition = Transition(
            step_run_id, [event_of(event) for event in _EVENTS_TO[status]], facts=facts, lease=Lease("w", 10)
        )
        assert apply(context, transition).applied
    with context.database.read() as unit:
        (item,) = load_items(unit, [step_run_id])
    assert item.status is status
    return item


FORBIDDEN = [
    "status = 'RUNNING'", "status = 'NONSENSE'", "status = 'STAGING_DATA'", "status = 'COMPLETED'", "status = 'FAILED'",
    "unmet = -1", "attempt = 99", "lease_owner = 'x', lease_until = now()", "finished_at = now()",
]  # fmt: skip


def test_the_constraints_refuse_forbidden_rows(context: Context) -> None:
    start(context, SINGLE)
    for change in FORBIDDEN:
        with pytest.raises(RowRefused), context.database.begin() as unit:
            unit.execute(f"UPDATE step_runs SET {change}")


def test_one_job_belongs_to_one_attempt(context: Context) -> None:
    start(context, scans=["x", "y"])
    first, second, *_ = claim(context)
    apply(context, Transition(first.step_run_id, [event_of(Event.JOB_SUBMITTED)], first.token, Facts(job_id="same")))
    with pytest.raises(RowRefused):
        apply(
            context, Transition(second.step_run_id, [event_of(Event.JOB_SUBMITTED)], second.token, Facts(job_id="same"))
        )


def test_random_histories_keep_every_counter(context: Context) -> None:
    """Random events: legal ones are applied, the counters follow, nothing else changes."""
    randomness = random.Random(7)
    for _ in range(3):
        start(context, scans=list(range(6)))
    # A person sets outcomes under more conditions than the table has (`services.outcomes`).
    events = sorted(set(Event) - {Event.CREATED, Event.SET_COMPLETED, Event.SET_SKIPPED})
    for turn in range(150):
        ids = [row[0] for row in rows(context, "SELECT id FROM step_runs WHERE unmet = 0 OR status = 'PENDING'")]
        chosen = randomness.sample(ids, 5)
        transitions = []
        for step_run_id in chosen:
            event = randomness.choice(events)
            if event is Event.CLAIMED and rows(
                context, "SELECT 1 FROM step_runs WHERE id = :i AND unmet > 0", i=step_run_id
            ):
                continue
            facts = Facts(job_id=f"job-{turn}-{step_run_id}") if event is Event.JOB_SUBMITTED else None
            transitions.append(Transition(step_run_id, [event_of(event)], facts=facts, lease=Lease("w", 5)))
        apply(context, *transitions)
        if turn % 10 == 0:
            check_counters(context)
    check_counters(context)
    assert rows(context, "SELECT 1 FROM run_steps WHERE remaining < 0 OR remaining > total") == []


def test_live_statuses_are_those_with_a_job() -> None:
    assert {Status.SUBMITTED, Status.RUNNING} == LIVE
