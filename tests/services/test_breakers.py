"""Jobs that are already at their backend when the circuit breaker of their step opens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.work_items import live_items_by_job
from ccat_workflow_manager.errors import NotFound, ServiceUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.overrides import Term
from ccat_workflow_manager.metrics import exposition
from ccat_workflow_manager.services.metrics import DatabaseMetrics
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.armed import Injected, Plan
from tests.support.fixtures_store import ContextMaker
from tests.support.invariants import while_working
from tests.support.step_runs import cancel_wanted, launch, poll, rows, start
from tests.support.waiting import wait_until

SPEC: dict[str, Any] = {
    "name": "fan",
    "steps": [{"name": "out", "image": "a.sif", "foreach": list(range(10)), "command": ["a"]}],
}
FAILED = HPCJobInfo(JobStatus.FAILED, exit_code=3)


@pytest.fixture
def context(make_context: ContextMaker) -> Context:
    return make_context("noop", BREAKER_FAILURES=3, CANCEL_CONFIRM_SECONDS=0.001)


def start_ten(context: Context, backend: FakeBackend, failing: int = 3) -> None:
    """Launch ten jobs, of which the fifth runs and the first `failing` fail."""
    start(context, SPEC)
    assert launch(context) == 10
    backend.set_state("fake-5", HPCJobInfo(JobStatus.RUNNING))
    poll(context)
    for number in range(1, failing + 1):
        backend.set_state(f"fake-{number}", FAILED)
    poll(context)


def statuses(context: Context) -> dict[str, int]:
    return dict(Counter(each.status for each in rows(context)))


def test_queued_jobs_are_requeued_and_running_ones_go_on(context: Context, backend: FakeBackend) -> None:
    start_ten(context, backend)
    cancel_wanted(context)
    assert statuses(context) == {"FAILED": 3, "PENDING": 6, "RUNNING": 1}
    assert sorted(backend.cancelled) == ["fake-10", "fake-4", "fake-6", "fake-7", "fake-8", "fake-9"]
    assert context.launcher.launch("noop", 10) == 0
    assert {row[0] for row in rows(context, "requeued_by_breaker OR cancel_requested_at IS NOT NULL")} == {False}
    # The running job succeeds, and the others go on in a new attempt, without losing one.
    backend.set_state("fake-5", HPCJobInfo(JobStatus.COMPLETED, 0))
    poll(context)
    assert context.launcher.launch("noop", 10) == 6
    assert {tuple(row) for row in rows(context, "attempt, max_attempts") if row[0] == 2} == {(2, 3)}
    with context.database.read() as unit:
        texts = unit.execute("SELECT DISTINCT reason, reason_text FROM attempts WHERE reason = 'cancelled'").all()
    [(_, text)] = texts
    assert "its step" in text


def test_a_job_that_is_taken_back_is_no_end_for_prometheus(context: Context, backend: FakeBackend) -> None:
    collector = DatabaseMetrics(context.database, seconds=0)
    collector.start_counting()
    start_ten(context, backend)
    cancel_wanted(context)

    def ends() -> dict[str, float]:
        families = text_string_to_metric_families(exposition(collector).decode())
        samples = [each for family in families for each in family.samples if each.name == "ccat_wm_step_runs_total"]
        return {each.labels["outcome"]: each.value for each in samples}

    wait_until(lambda: "FAILED" in ends(), what="the events of all can be read")
    assert ends() == {"FAILED": 3}


def test_a_cancel_request_wins_over_the_breaker(context: Context, backend: FakeBackend) -> None:
    start_ten(context, backend)
    run_id = rows(context, "run_id")[0][0]
    context.requests.cancel([run_id], actor="operator")
    cancel_wanted(context)
    assert statuses(context) == {"CANCELLED": 7, "FAILED": 3}


def test_a_job_that_completes_before_it_is_requeued_is_completed(context: Context, backend: FakeBackend) -> None:
    start_ten(context, backend)
    backend.set_state("fake-7", HPCJobInfo(JobStatus.COMPLETED, 0))
    poll(context)
    assert statuses(context)["COMPLETED"] == 1
    cancel_wanted(context)
    assert statuses(context) == {"COMPLETED": 1, "FAILED": 3, "PENDING": 5, "RUNNING": 1}
    with context.database.read() as unit:
        assert unit.execute("SELECT count(*) FROM breakers").scalar() == 0


@pytest.mark.parametrize("info", [HPCJobInfo(JobStatus.CANCELLED), HPCJobInfo(JobStatus.FAILED, exit_code=143)])
def test_a_job_requeued_during_a_poll_is_pending_again(
    make_context: ContextMaker,
    context: Context,
    backend: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    info: HPCJobInfo,
) -> None:
    """Another worker opens the breaker after the poller has read its step runs."""
    other = make_context("noop", BREAKER_FAILURES=3)
    other.use_backend("noop", backend)
    start_ten(context, backend, failing=2)
    get_statuses, interruptions = backend.get_statuses, [1]

    def interrupted(job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        if interruptions:
            interruptions.pop()
            backend.set_state("fake-3", FAILED)
            with other.database.read() as unit:
                items = live_items_by_job(unit, "noop", ["fake-3"])
            other.status_updater.update(other.backend_handle("noop"), items)
            assert rows(context, "requeued_by_breaker")[6][0]
            backend.set_state("fake-7", info)
        return get_statuses(job_ids)

    monkeypatch.setattr(backend, "get_statuses", interrupted)
    poll(context)
    assert tuple(rows(context, "status, requeued_by_breaker, attempt, max_attempts")[6]) == ("PENDING", False, 1, 3)
    assert statuses(context) == {"FAILED": 3, "PENDING": 1, "RUNNING": 1, "SUBMITTED": 5}
    with context.database.read() as unit:
        assert list(while_working(unit)) == []


def test_the_sweep_requeues_jobs_launched_while_the_breaker_opened(context: Context, backend: FakeBackend) -> None:
    start_ten(context, backend)
    cancel_wanted(context)
    with context.database.begin() as unit:
        # As if its launch had been recorded just after the breaker had opened.
        unit.execute(
            "UPDATE step_runs SET status = 'SUBMITTED', job_id = 'fake-8', claims = 1"
            " WHERE id = (SELECT step_run_id FROM attempts WHERE job_id = 'fake-8')"
        )
        unit.execute("UPDATE runs SET n_pending = n_pending - 1, n_submitted = n_submitted + 1")
    context.breakers.sweep()
    cancel_wanted(context)
    assert statuses(context) == {"FAILED": 3, "PENDING": 6, "RUNNING": 1}


def test_the_probe_is_not_requeued(context: Context, backend: FakeBackend) -> None:
    start_ten(context, backend)
    cancel_wanted(context)
    with context.database.begin() as unit:
        unit.execute("UPDATE breakers SET probe_at = now()")
    assert context.launcher.launch("noop", 10) == 1
    context.breakers.sweep()
    cancel_wanted(context)
    assert statuses(context) == {"FAILED": 3, "PENDING": 5, "RUNNING": 1, "SUBMITTED": 1}


def test_node_failures_open_no_breaker(context: Context, backend: FakeBackend) -> None:
    start(context, SPEC)
    launch(context)
    for number in range(1, 6):
        backend.set_state(f"fake-{number}", HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE))
    poll(context)
    context.breakers.sweep()
    cancel_wanted(context)
    assert statuses(context) == {"PENDING": 5, "SUBMITTED": 5}
    assert backend.cancelled == []


@pytest.mark.usefixtures("disarmed")
@pytest.mark.parametrize("point", ["commit.requeue-waiting", "commit.breaker-release", "commit.breakers-swept"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("action", ["raise", "timeout"])
def test_an_interrupted_breaker_leaves_no_half_done_work(
    make_context: ContextMaker, context: Context, backend: FakeBackend, point: str, moment: str, action: str
) -> None:
    off = make_context("noop", BREAKER_FAILURES=0)
    failpoints.arm(Plan(f"* {point} {moment} {action}"))
    for work in (
        lambda: start_ten(context, backend),
        lambda: poll(context),
        context.breakers.sweep,
        lambda: context.breakers.release(rows(context, "breaker_key")[0][0], Term("operator")),
        off.breakers.sweep,
    ):
        with suppress(Injected, ServiceUnavailable, NotFound):
            work()
    failpoints.arm(None)
    off.breakers.sweep()
    for _ in range(2):
        poll(context)
        cancel_wanted(context)
    context.launcher.launch("noop", 10)
    found = statuses(context)
    assert found.keys() <= {"FAILED", "RUNNING", "SUBMITTED"}
    assert (found["FAILED"], found["RUNNING"]) == (3, 1)
    with context.database.read() as unit:
        assert unit.execute("SELECT count(*) FROM breakers WHERE opened_at IS NOT NULL").scalar() in (0, 1)
        assert list(while_working(unit)) == []
