"""Maintained figures: each event counts once, whatever dies or commits late, and they tell what happened."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db import figures
from ccat_workflow_manager.db.figures import DAY, MINUTE
from ccat_workflow_manager.db.queries.figures import live
from ccat_workflow_manager.managers.loops import FiguresLoop
from ccat_workflow_manager.services.figures import pipeline_stats, timeseries
from ccat_workflow_manager.services.run_request import RunRequest
from tests.api.rest import CHAIN, ONE, Hand


@pytest.fixture
def hand(context: Context) -> Hand:
    return Hand(context)


def submit(context: Context, spec: dict[str, Any] = ONE, **more: Any) -> UUID:
    return context.submitter.submit(RunRequest(spec=spec, **more), actor="test")[0]


def counted(context: Context) -> dict[str, int]:
    """Runs of the last hour by outcome."""
    with context.database.read() as unit:
        found: dict[str, int] = timeseries(unit, "1h", datetime.now(UTC))["totals"]["runs"]
        return found


def test_figures_tell_what_became_of_runs_and_attempts(context: Context, hand: Hand) -> None:
    for _ in range(3):
        submit(context)
    first, second, _ = hand.claim(3)
    hand.complete(first)
    hand.fail(second)
    hand.count()
    with context.database.read() as unit:
        told = timeseries(unit, "1h", datetime.now(UTC))
        stats = pipeline_stats(unit, "one", "30d", datetime.now(UTC))
        now = live(unit)
    assert told["totals"]["runs"] == {"CREATED": 3, "COMPLETED": 1, "FAILED": 1, "CANCELLED": 0}
    assert (told["totals"]["failure_rate"], told["reasons"]) == (0.5, {"program_failed": 1})
    assert sum(told["runs"]["CREATED"]) == 3
    assert {rate for rate in told["failure_rate"] if rate is not None} <= {0.0, 0.5, 1.0}
    assert (stats["runs"]["success_rate"], stats["steps"]["only"]["totals"]["COMPLETED"]) == (0.5, 1)
    assert stats["steps"]["only"]["median_seconds"] == pytest.approx(1.5, rel=0.25)
    assert stats["steps"]["only"]["over_time"]["success_rate"][-1] == 0.5
    assert {status: number for status, number in now.items() if number} == {"STAGING_DATA": 1}


def test_each_event_counts_once_in_many_small_portions_and_for_many_managers(context: Context, hand: Hand) -> None:
    for _ in range(7):
        submit(context, CHAIN, parameters={"scans": [1, 2]})
        hand.complete(hand.claim()[0])

    def all_of_it() -> None:
        more = True
        while more:
            with context.database.begin("commit.test") as unit:
                more = figures.fold(unit, at_once=3)

    managers = [threading.Thread(target=all_of_it) for _ in range(3)]
    for each in managers:
        each.start()
    for each in managers:
        each.join()
    all_of_it()
    assert counted(context)["CREATED"] == 7
    with context.database.read() as unit:
        assert sum(live(unit).values()) == 7 * 5 - 7


def test_what_commits_late_is_counted(context: Context) -> None:
    with ExitStack() as late:
        late.enter_context(context.database.begin("commit.test")).execute("SELECT pg_current_xact_id()")
        submit(context)
        FiguresLoop(context.database).tick()
        assert counted(context)["CREATED"] == 0
    FiguresLoop(context.database).tick()
    assert counted(context)["CREATED"] == 1


def test_a_manager_that_dies_counts_nothing_twice(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(context)
    for when in (failpoints.BEFORE, failpoints.AFTER):

        def die(name: str, at: str = failpoints.BEFORE, when: str = when) -> None:
            if (name, at) == ("commit.figures", when):
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(failpoints, "point", die)
            with pytest.raises(KeyboardInterrupt):
                FiguresLoop(context.database).tick()
    FiguresLoop(context.database).tick()
    assert counted(context)["CREATED"] == 1


def test_short_times_are_forgotten_and_days_stay(context: Context) -> None:
    submit(context)
    FiguresLoop(context.database).tick()
    with context.database.begin("commit.test") as unit:
        unit.execute("UPDATE figures SET begin = begin - :age", {"age": timedelta(days=20)})
        figures.forget(unit)
        kept = {row[0] for row in unit.execute("SELECT seconds FROM figures")}
    assert kept == {DAY}
    assert MINUTE not in kept
