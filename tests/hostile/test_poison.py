"""A step run that kills or hangs its workers ends, and the next one goes on."""

from __future__ import annotations

import threading
import time

import pytest

from ccat_workflow_manager import watchdog
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.leases import LeaseStore
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from ccat_workflow_manager.watchdog import EXIT_CODE, Page, Watchdog
from tests.support.step_runs import end_delays, expire_leases, launch, row, rows, start


def claim_and_die(context: Context) -> int:
    end_delays(context)
    with context.database.begin() as unit:
        claimed = RunStore(unit).claim("noop", "doomed", 1, 60)
    expire_leases(context)
    LeaseSweep(context.database, context.doorbell, max_deaths=3).tick()
    return len(claimed)


def test_an_attempt_that_kills_its_workers_fails(context: Context, backend: FakeBackend) -> None:
    start(context)
    assert [claim_and_die(context) for _ in range(4)] == [1, 1, 1, 0]
    bad = row(context)
    assert (bad.status, bad.reason, bad.claims) == ("FAILED", "internal_error", 3)
    assert "died 3 times (MAX_WORKER_DEATHS), the last one was doomed" in bad.reason_text
    start(context)
    assert launch(context) == 1
    assert sorted(each.status for each in rows(context)) == ["FAILED", "SUBMITTED"]


def test_a_wait_is_no_death(context: Context, backend: FakeBackend) -> None:
    start(context)
    for _ in range(2):
        claim_and_die(context)
    assert launch(context) == 1
    assert (row(context).status, row(context).deaths) == ("SUBMITTED", 0)


def test_results_that_kill_their_collectors_fail(context: Context) -> None:
    start(context)
    with context.database.begin() as unit:
        [item] = RunStore(unit).claim("noop", "w", 1, 60)
        events = [TransitionEvent(event, "w") for event in (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED)]
        RunStore(unit).apply([Transition(item.step_run_id, events, item.token, Facts(job_id="job-1"))])
    sweep = LeaseSweep(context.database, context.doorbell, max_deaths=3)
    taken = []
    for _ in range(4):
        with context.database.begin() as unit:
            taken.append(len(LeaseStore(unit).acquire_for_collection("noop", "doomed", 10, 60, 3)))
        expire_leases(context)
        sweep.tick()
    assert taken == [1, 1, 1, 0]
    assert (row(context).status, row(context).reason) == ("FAILED", "internal_error")


# --- the watchdog -----------------------------------------------------------------------------------------------------


def test_a_call_that_hangs_is_named(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[int] = []
    dog = Watchdog(0.0, end=ends.append)
    dog.report("submit_many of the backend slurm", 1000)
    dog.look()
    assert ends == []
    dog.report("get_statuses of the backend slurm", -1)
    dog.look()
    assert ends == [EXIT_CODE]
    assert "get_statuses of the backend slurm has hung" in caplog.text


def test_each_thread_is_watched_and_may_wait(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[int] = []
    dog = Watchdog(1000.0, end=ends.append)
    dog.report("waiting for work", 0)
    thread = threading.Thread(target=lambda: dog.report("collecting", -2000))
    thread.start()
    thread.join()
    dog.look()
    assert ends == [EXIT_CODE]
    assert "collecting has hung" in caplog.text


def test_a_page_shows_what_a_process_does() -> None:
    page = Page()
    assert page.read() == (0.0, "")
    before = time.monotonic()
    dog = Watchdog(1000.0, page)
    dog.report("waiting for work", 0)
    dog.look()
    seen, what = page.read()
    assert what == "waiting for work"
    assert before <= seen <= time.monotonic()


def test_a_call_inside_another_one_is_over_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    dog = Watchdog(1000.0)
    monkeypatch.setattr(watchdog, "_active", dog)
    watchdog.report("launch noop")
    with watchdog.during("find of the backend noop"):
        assert dog.present == "find of the backend noop"
    assert dog.present == "launch noop"
    watchdog.forget()
    with watchdog.during("find of the backend noop"):
        pass
    assert dog.present is None
