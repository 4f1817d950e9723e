"""A retry and an end of the same run that are written concurrently, without seeing each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.locked_rows import LOCK_STEP_RUNS
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.statements import COUNT_RUNS
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.services.run_request import RunRequest
from tests.support.fixtures_store import ContextMaker
from tests.support.invariants import at_rest, while_working
from tests.support.waiting import PATIENCE

SPEC: dict[str, Any] = {
    "name": "two-before-one",
    "steps": [
        {"name": "u", "command": ["a"]},
        {"name": "v", "command": ["a"]},
        {"name": "d", "command": ["a"], "depends_on": ["u", "v"]},
        {"name": "e", "command": ["a"], "depends_on": ["d"]},
    ],
}
KEYED: dict[str, Any] = {
    "name": "two-before-one",
    "steps": [
        {"name": "u", "command": ["a"], "foreach": ["x"]},
        {"name": "v", "command": ["a"], "foreach": ["x"]},
        {"name": "d", "command": ["a"], "foreach": ["x"], "depends_on": ["u", "v"]},
        {"name": "e", "command": ["a"], "depends_on": ["d"]},
    ],
}


class Race:
    """One run in which `v` has failed while `u` is running, and two deployments that write to it."""

    def __init__(self, context: Context, other: Context, spec: dict[str, Any]) -> None:
        self.context, self.other = context, other
        self.run_id, *_ = context.submitter.submit(RunRequest(spec=spec), actor="test")
        self.items: dict[str, WorkItem] = {}
        self.claim()
        self.fail("v")
        assert self.statuses() == {"u": "STAGING_DATA", "v": "FAILED", "d": "SKIPPED", "e": "SKIPPED"}

    def claim(self) -> None:
        with self.context.database.begin() as unit:
            self.items |= {item.step: item for item in RunStore(unit).claim("noop", "w", 10, 60)}

    def fail(self, step: str) -> None:
        failure = TransitionEvent(Event.FAILED, "test", FailureReason.PROGRAM_FAILED, "exit code 3")
        self.write(step, failure)

    def complete(self, step: str) -> None:
        events = (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED, Event.RESULTS_COLLECTED)
        self.write(step, *(TransitionEvent(event, "test") for event in events))

    def write(self, step: str, *events: TransitionEvent) -> None:
        item = self.items[step]
        with self.other.database.begin() as unit:
            done = RunStore(unit).apply([Transition(item.step_run_id, events, item.token, Facts(job_id=item.job_name))])
        assert done.refused == {}

    def cancel(self, step: str) -> None:
        self.other.requests.cancel_step_runs([self.items[step].step_run_id], actor="anna")
        self.write(step, TransitionEvent(Event.CANCELLED, "noop", FailureReason.CANCELLED))

    def retry(self) -> None:
        self.context.requests.retry([self.run_id], actor="otto")

    def retry_step(self) -> None:
        self.context.requests.retry_step_runs([self.items["v"].step_run_id], actor="otto")

    def statuses(self) -> dict[str, str]:
        with self.context.database.read() as unit:
            found = unit.execute("SELECT step, status FROM step_runs WHERE run_id = :id", {"id": self.run_id})
            return {row[0]: row[1] for row in found}

    def run(self) -> tuple[str, bool]:
        with self.context.database.read() as unit:
            found = unit.execute("SELECT status, finished_at IS NULL FROM runs WHERE id = :id", {"id": self.run_id})
            status, open_ = found.one()
            return status, open_

    def go_on(self) -> None:
        """Finish what is left to do after the retry and the end."""
        self.claim()
        self.complete("v")

    def wrong(self) -> list[str]:
        with self.context.database.read() as unit:
            return [*while_working(unit), *at_rest(unit)]


@pytest.fixture(params=[SPEC, KEYED], ids=["all", "key"])
def race(make_context: ContextMaker, request: pytest.FixtureRequest) -> Race:
    return Race(make_context("noop"), make_context("noop"), request.param)


def before(monkeypatch: pytest.MonkeyPatch, statement: str, action: Callable[[], object], nth: int = 1) -> None:
    """Run `action` in a transaction of its own just before the statement is executed for the nth time."""
    execute, left = UnitOfWork.execute, [nth]

    def interrupted(unit: UnitOfWork, text: str, parameters: Any = None) -> Any:
        if text == statement and left[0] > 0:
            left[0] -= 1
            if left[0] == 0:
                action()
        return execute(unit, text, parameters)

    monkeypatch.setattr(UnitOfWork, "execute", interrupted)


@pytest.mark.parametrize("retry", [Race.retry, Race.retry_step])
@pytest.mark.parametrize("end", [Race.fail, Race.cancel])
def test_an_end_during_a_retry(
    race: Race, monkeypatch: pytest.MonkeyPatch, retry: Callable[[Race], None], end: Callable[[Race, str], None]
) -> None:
    before(monkeypatch, LOCK_STEP_RUNS, lambda: end(race, "u"))
    retry(race)
    assert race.statuses() | {"u": ""} == {"u": "", "v": "PENDING", "d": "SKIPPED", "e": "SKIPPED"}
    race.go_on()
    assert race.run() == ("FAILED" if end is Race.fail else "CANCELLED", False)
    assert race.wrong() == []


@pytest.mark.parametrize("retry", [Race.retry, Race.retry_step])
@pytest.mark.parametrize("end", [Race.fail, Race.cancel])
def test_a_retry_during_an_end(
    race: Race, monkeypatch: pytest.MonkeyPatch, retry: Callable[[Race], None], end: Callable[[Race, str], None]
) -> None:
    before(monkeypatch, COUNT_RUNS, lambda: retry(race))
    end(race, "u")
    assert race.statuses() | {"u": ""} == {"u": "", "v": "PENDING", "d": "SKIPPED", "e": "SKIPPED"}
    race.go_on()
    assert race.run() == ("FAILED" if end is Race.fail else "CANCELLED", False)
    assert race.wrong() == []


def test_a_retry_and_an_end_in_two_threads(make_context: ContextMaker) -> None:
    """The same in any order and at any point."""
    context, other = make_context("noop"), make_context("noop")
    with ThreadPoolExecutor(2) as threads:
        for _ in range(30):
            race = Race(context, other, SPEC)
            barrier = Barrier(2)

            def press(action: Callable[[], None], barrier: Barrier = barrier) -> None:
                barrier.wait(PATIENCE)
                action()

            for done in [threads.submit(press, race.retry), threads.submit(press, partial(race.fail, "u"))]:
                done.result(PATIENCE)
            statuses = race.statuses()
            if statuses["u"] == "FAILED":
                race.go_on()
                assert race.run() == ("FAILED", False)
            else:
                context.requests.cancel([race.run_id], actor="anna")
                assert race.run() == ("CANCELLED", False)
            assert race.wrong() == []


def test_a_second_retry_completes_the_run(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    before(monkeypatch, COUNT_RUNS, race.retry)
    race.fail("u")
    race.retry()
    for steps in (["u", "v"], ["d"], ["e"]):
        race.claim()
        for step in steps:
            race.complete(step)
    assert race.run() == ("COMPLETED", False)
    assert race.wrong() == []


def test_locked_dependents_are_left_to_the_sweep(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that holds a run must not wait for step runs: that is the wrong order of locks."""
    with ExitStack() as held:

        def retry_and_hold() -> None:
            race.retry()
            unit = held.enter_context(race.other.database.begin())
            unit.execute("SELECT 1 FROM step_runs WHERE step = 'd' FOR UPDATE")

        before(monkeypatch, COUNT_RUNS, retry_and_hold)
        race.fail("u")
    race.go_on()
    assert race.statuses() == {"u": "FAILED", "v": "COMPLETED", "d": "PENDING", "e": "PENDING"}
    assert race.run() == ("RUNNING", True)
    assert len(race.wrong()) == 1
    LeaseSweep(race.context.database, race.context.doorbell).tick()
    assert race.statuses() == {"u": "FAILED", "v": "COMPLETED", "d": "SKIPPED", "e": "SKIPPED"}
    assert race.run() == ("FAILED", False)
    assert race.wrong() == []


def test_the_sweep_skips_nothing_during_a_retry(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    """The retry may reopen what blocks the dependents."""
    with race.context.database.begin() as unit:
        stuck(unit, race.run_id)
    retried: list[str] = []

    def sweep() -> None:
        LeaseSweep(race.other.database, race.other.doorbell).tick()
        retried.extend(race.statuses().values())

    before(monkeypatch, LOCK_STEP_RUNS, sweep)
    race.retry()
    assert sorted(retried) == ["COMPLETED", "FAILED", "PENDING", "PENDING"]
    assert race.statuses() == {"u": "COMPLETED", "v": "PENDING", "d": "PENDING", "e": "PENDING"}
    assert race.wrong() == []


def stuck(unit: UnitOfWork, run_id: UUID) -> None:
    """`u` is COMPLETED, and `d` and `e` wait for `v`, which has FAILED."""
    for statement in (
        "UPDATE step_runs SET status = 'COMPLETED', finished_at = now(), lease_owner = NULL, lease_until = NULL"
        " WHERE run_id = :id AND step = 'u'",
        "UPDATE step_runs SET status = 'PENDING', reason = NULL, finished_at = NULL,"
        " unmet = 1 WHERE run_id = :id AND step IN ('d', 'e')",
        "UPDATE run_steps SET remaining = 0 WHERE run_id = :id AND name = 'u'",
        "UPDATE runs SET n_staging_data = 0, n_completed = 1, n_skipped = 0, n_pending = 2 WHERE id = :id",
        "INSERT INTO events (step_run_id, run_id, event, from_status, to_status, attempt, actor)"
        " SELECT id, run_id, 'retried', 'SKIPPED', 'PENDING', 0, 'test' FROM step_runs"
        " WHERE run_id = :id AND step IN ('d', 'e')",
        "INSERT INTO events (step_run_id, run_id, event, from_status, to_status, attempt, actor)"
        " SELECT s.id, run_id, e, f, t, 1, 'test' FROM step_runs s, (VALUES (1, 'job_submitted', 'STAGING_DATA',"
        " 'SUBMITTED'), (2, 'job_succeeded', 'SUBMITTED', 'COLLECTING_RESULTS'), (3, 'results_collected',"
        " 'COLLECTING_RESULTS', 'COMPLETED')) AS x(n, e, f, t) WHERE run_id = :id AND step = 'u' ORDER BY n",
        "UPDATE attempts SET finished_at = now() WHERE step_run_id IN"
        " (SELECT id FROM step_runs WHERE run_id = :id AND step = 'u')",
    ):
        unit.execute(statement, {"id": run_id})
