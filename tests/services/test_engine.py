"""Launching, following, cancelling and sweeping with a backend that does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.leases import LeaseStore
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.errors import BackendConfused, BackendRejected, BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.services import cancel
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.armed import Plan
from tests.support.fixtures_store import ContextMaker
from tests.support.invariants import while_working

SPEC: dict[str, Any] = {
    "name": "one",
    "steps": [
        {
            "name": "only",
            "command": ["a"],
            "resources": {"memory_gb": 2, "time_hours": 1},
            "retry": {
                "max_attempts": 3,
                "backoff_seconds": 0,
                "memory_cap_gb": 6,
                "memory_factor": 2,
                "time_factor": 3,
            },
        }
    ],
}


@pytest.fixture
def fake(context: Context) -> FakeBackend:
    backend = FakeBackend()
    context._backends["noop"] = backend
    return backend


def start(context: Context, **request: Any) -> UUID:
    run_id, *_ = context.submitter.submit(RunRequest(spec=SPEC, **request), actor="test")
    return run_id


def look(context: Context) -> Any:
    with context.database.read() as unit:
        return unit.execute("SELECT * FROM step_runs ORDER BY id").first()


def attempts(context: Context, columns: str = "*") -> list[Any]:
    with context.database.read() as unit:
        return list(unit.execute(f"SELECT {columns} FROM attempts ORDER BY number").all())


def launch(context: Context) -> int:
    """Launch what is ready, after letting every back-off pass."""
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET not_before = NULL")
        unit.execute("UPDATE backends SET retry_at = now()")
    return context.launcher.launch("noop", 10)


def end(fake: FakeBackend, job_id: str, **info: Any) -> None:
    fake.set_state(job_id, HPCJobInfo(**{"status": JobStatus.FAILED, **info}))


def test_every_word_of_the_backend_arrives(context: Context, fake: FakeBackend) -> None:
    run_id = start(context)
    assert launch(context) == 1
    assert look(context).status == "SUBMITTED"
    fake.set_state("fake-1", HPCJobInfo(JobStatus.PENDING, message="Priority"))
    context.poller.poll_all("noop")
    assert look(context).waiting_for == "Priority"
    fake.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    context.poller.poll_all("noop")
    row = look(context)
    assert (row.status, row.waiting_for) == ("RUNNING", None)
    assert row.started_at is not None
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0, 12.5, 0.25, 1.5))
    context.poller.poll_all("noop")
    row = look(context)
    assert (row.status, row.exit_code, row.wall_time_seconds, row.cpu_hours, row.peak_memory_gb) == (
        "COMPLETED", 0, 12.5, 0.25, 1.5,
    )  # fmt: skip
    with context.database.read() as unit:
        assert unit.execute("SELECT status FROM runs WHERE id = :id", {"id": run_id}).scalar() == "COMPLETED"


@pytest.mark.parametrize("hours", [-48, 0, 48])
@pytest.mark.parametrize("ends_at_once", [True, False])
def test_the_times_of_a_step_run_are_in_order(
    context: Context, fake: FakeBackend, hours: float, ends_at_once: bool
) -> None:
    """Whatever the clock of a node says, and though `submit` returns after the job has started."""
    start(context)
    before = datetime.now(UTC)
    assert launch(context) == 1
    began = before + timedelta(hours=hours)
    if not ends_at_once:
        fake.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING, started_at=began))
        context.poller.poll_all("noop")
        row = look(context)
        assert row.created_at <= row.submitted_at <= row.started_at
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0, 1.0, started_at=began, finished_at=began))
    context.poller.poll_all("noop")
    row = look(context)
    assert row.status == "COMPLETED"
    assert row.created_at <= row.submitted_at <= row.started_at <= row.finished_at
    (attempt,) = attempts(context)
    assert row.created_at <= attempt.submitted_at <= attempt.started_at <= attempt.finished_at <= row.finished_at
    if hours == 0:
        assert row.started_at == attempt.started_at == began


def test_a_job_of_which_no_times_are_known_has_not_ended_before_it_has(context: Context, fake: FakeBackend) -> None:
    start(context)
    assert launch(context) == 1
    fake.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    context.poller.poll_all("noop")
    (attempt,) = attempts(context)
    assert (attempt.started_at is not None, attempt.finished_at) == (True, None)


def test_many_jobs_cost_one_status_call(context: Context, fake: FakeBackend) -> None:
    context.submitter.submit_bulk([RunRequest(spec=SPEC)] * 50, actor="test")
    assert context.launcher.launch("noop", 50) == 50
    fake.status_calls = 0
    context.poller.poll_all("noop")
    assert fake.status_calls == 1


def test_out_of_memory_gets_more_memory_up_to_the_cap(context: Context, fake: FakeBackend) -> None:
    start(context)
    for number, memory in ((1, 2), (2, 4), (3, 6)):
        launch(context)
        assert fake.jobs[f"fake-{number}"].request.resource_requirements.memory_gb == memory
        end(fake, f"fake-{number}", reason=FailureReason.OUT_OF_MEMORY, exit_code=137)
        context.poller.poll_all("noop")
    row = look(context)
    assert (row.status, row.reason, row.attempt) == ("FAILED", "out_of_memory", 3)
    assert [(a.number, a.reason, a.resources["memory_gb"]) for a in attempts(context)] == [
        (1, "out_of_memory", 2), (2, "out_of_memory", 4), (3, "out_of_memory", 6),
    ]  # fmt: skip
    texts = [attempt.reason_text for attempt in attempts(context)]
    assert texts[0].endswith("(next: attempt 2 of 3 at once with 4 GB instead of 2 GB)")
    assert texts[1].endswith("(next: attempt 3 of 3 at once with 6 GB instead of 4 GB)")
    assert texts[2].endswith("(no further attempt: this was attempt 3 of 3)")


def test_at_the_cap_it_says_so_and_keeps_its_attempts(context: Context, fake: FakeBackend) -> None:
    (step,) = SPEC["steps"]
    for kind, caps, words in (
        (FailureReason.OUT_OF_MEMORY, {"memory_cap_gb": 2}, "more memory than 2 GB is not allowed (memory_cap_gb)"),
        (FailureReason.TIME_LIMIT, {"time_cap_hours": 1}, "more time than 1 h is not allowed (time_cap_hours)"),
    ):
        spec = {**SPEC, "steps": [{**step, "retry": {"max_attempts": 3, **caps}}]}
        run_id, *_ = context.submitter.submit(RunRequest(spec=spec), actor="test")
        launch(context)
        end(fake, list(fake.jobs)[-1], reason=kind)
        context.poller.poll_all("noop")
        with context.database.read() as unit:
            found = unit.execute("SELECT * FROM step_runs WHERE run_id = :id", {"id": run_id}).one()
        assert (found.status, found.attempt) == ("FAILED", 1)
        assert found.reason_text.endswith(f"(no further attempt: {words})")


def test_time_limit_gets_more_time(context: Context, fake: FakeBackend) -> None:
    start(context)
    launch(context)
    end(fake, "fake-1", reason=FailureReason.TIME_LIMIT)
    context.poller.poll_all("noop")
    assert "attempt 2 of 3" in look(context).waiting_for
    assert attempts(context)[0].reason_text.endswith("(next: attempt 2 of 3 at once with 3 h instead of 1 h)")
    launch(context)
    assert fake.jobs["fake-2"].request.resource_requirements.time_hours == 3


def test_a_user_error_is_not_retried(context: Context, fake: FakeBackend) -> None:
    start(context)
    launch(context)
    end(fake, "fake-1", exit_code=3)
    context.poller.poll_all("noop")
    row = look(context)
    assert (row.status, row.reason, row.exit_code) == ("FAILED", "program_failed", 3)
    assert "exit code 3" in row.reason_text


def test_silence_is_neither_success_nor_failure_until_the_grace_is_over(context: Context, fake: FakeBackend) -> None:
    start(context)
    launch(context)
    fake.drop("fake-1")
    context.poller.poll_all("noop")
    row = look(context)
    assert row.status == "SUBMITTED"
    assert "does not know the job" in row.waiting_for
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET unknown_since = now() - interval '10 minutes'")
    context.poller.poll_all("noop")
    row = look(context)
    assert (row.status, row.attempt) == ("PENDING", 1)
    assert attempts(context)[0].reason == "lost"


def test_a_job_that_comes_back_goes_on(context: Context, fake: FakeBackend) -> None:
    start(context)
    launch(context)
    job = fake.jobs["fake-1"]
    fake.drop("fake-1")
    context.poller.poll_all("noop")
    assert look(context).unknown_since is not None
    fake.jobs["fake-1"] = job
    fake.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
    context.poller.poll_all("noop")
    row = look(context)
    assert (row.status, row.unknown_since) == ("RUNNING", None)


@pytest.mark.parametrize("error", [BackendUnavailable("slurmctld is down"), BackendConfused("not JSON: <html>")])
def test_a_backend_that_is_away_changes_nothing_and_is_shown(
    context: Context, fake: FakeBackend, error: BackendUnavailable
) -> None:
    start(context)
    launch(context)
    fake.status_error = error
    context.poller.poll_all("noop")
    assert look(context).status == "SUBMITTED"
    with context.database.read() as unit:
        assert unit.execute("SELECT problem FROM backends WHERE name = 'noop'").scalar() == error.message


def test_an_unavailable_backend_releases_and_is_tried_later(context: Context, fake: FakeBackend) -> None:
    start(context)
    fake.submit_error = BackendUnavailable("no route to host")
    assert launch(context) == 1
    row = look(context)
    assert (row.status, row.attempt) == ("PENDING", 1)
    assert "no route to host" in row.waiting_for
    assert context.launcher.launch("noop", 10) == 0
    fake.submit_error = None
    launch(context)
    assert (look(context).status, look(context).attempt) == ("SUBMITTED", 1)
    assert len(fake.jobs) == 1


def test_an_accepted_job_whose_answer_was_lost_is_adopted(context: Context, fake: FakeBackend) -> None:
    start(context)
    fake.accept_then_fail = BackendUnavailable("Socket timed out on send/recv operation")
    launch(context)
    fake.accept_then_fail = None
    launch(context)
    assert (look(context).status, look(context).job_id) == ("SUBMITTED", "fake-1")
    assert len(fake.jobs) == 1


def test_a_refused_job_fails_with_the_words_of_the_backend(context: Context, fake: FakeBackend) -> None:
    start(context)
    fake.submit_error = BackendRejected("wants 4000 GB, the largest node has 512 GB")
    launch(context)
    row = look(context)
    assert (row.status, row.reason) == ("FAILED", "rejected")
    assert "4000 GB" in row.reason_text


def test_cancel_waits_for_the_fact(context: Context, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "RETRY_SECONDS", (0.0, 0.0))
    run_id = start(context)
    launch(context)
    fake.stubborn = True
    context.canceller._context = context.worker_context
    object.__setattr__(context.worker_context, "cancel_confirm_seconds", 0.0)
    context.requests.cancel([run_id], actor="anna")
    context.canceller.cancel_wanted("noop")
    row = look(context)
    assert row.status == "SUBMITTED"
    assert "not confirmed" in row.waiting_for
    fake.stubborn = False
    context.canceller.cancel_wanted("noop")
    assert look(context).status == "CANCELLED"
    assert set(fake.cancelled) == {"fake-1"}


def test_a_job_that_fails_while_it_is_cancelled_is_cancelled(context: Context, fake: FakeBackend) -> None:
    run_id = start(context)
    launch(context)
    context.requests.cancel([run_id], actor="anna")
    end(fake, "fake-1", exit_code=143, signal=15)
    context.poller.poll_all("noop")
    row = look(context)
    assert (row.status, row.attempt) == ("CANCELLED", 1)


def while_asked(fake: FakeBackend, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Have this happen after the poller has read its step runs, and before the backend answers, once."""
    answer, todo = fake.get_statuses, [action]

    def interrupted(job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        if todo:
            todo.pop()()
        return answer(job_ids)

    monkeypatch.setattr(fake, "get_statuses", interrupted)


@pytest.mark.parametrize(
    "info",
    [
        HPCJobInfo(JobStatus.CANCELLED, message="CANCELLED by 1000"),
        HPCJobInfo(JobStatus.FAILED, signal=15),
        HPCJobInfo(JobStatus.FAILED, exit_code=3),
        HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE),
    ],
    ids=["stopped", "killed", "failed by itself", "would be retried"],
)
@pytest.mark.parametrize("running", [True, False])
def test_a_cancel_that_the_follower_has_not_read_is_heeded(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, info: HPCJobInfo, running: bool
) -> None:
    """Another worker stops the job between the look at the row and the answer of the backend."""
    first, second = make_context("noop"), make_context("noop")
    fake = FakeBackend()
    first._backends["noop"] = second._backends["noop"] = fake
    run_id = start(first)
    launch(first)
    if running:
        fake.set_state("fake-1", HPCJobInfo(JobStatus.RUNNING))
        first.poller.poll_all("noop")

    def cancel() -> None:
        second.requests.cancel([run_id], actor="anna")
        fake.set_state("fake-1", info)

    while_asked(fake, monkeypatch, cancel)
    first.poller.poll_all("noop")
    row = look(first)
    assert (row.status, row.reason, row.attempt, row.cancel_requested_by) == ("CANCELLED", "cancelled", 1, "anna")
    assert [(each.reason, each.exit_code, each.signal) for each in attempts(first)] == [
        ("cancelled", info.exit_code, info.signal)
    ]
    with first.database.read() as unit:
        assert list(while_working(unit)) == []


def test_a_job_that_succeeds_while_it_is_cancelled_has_succeeded(
    context: Context, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start(context)
    launch(context)

    def cancel() -> None:
        context.requests.cancel([run_id], actor="anna")
        fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))

    while_asked(fake, monkeypatch, cancel)
    context.poller.poll_all("noop")
    assert look(context).status == "COMPLETED"


def test_a_job_that_finished_first_has_finished(context: Context, fake: FakeBackend) -> None:
    run_id = start(context)
    launch(context)
    context.requests.cancel([run_id], actor="anna")
    fake.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    context.canceller.cancel_wanted("noop")
    context.poller.poll_all("noop")
    assert look(context).status == "COMPLETED"


def test_somebody_else_stopping_the_job_is_told(context: Context, fake: FakeBackend) -> None:
    start(context)
    launch(context)
    fake.set_state("fake-1", HPCJobInfo(JobStatus.CANCELLED, message="CANCELLED by 1000"))
    context.poller.poll_all("noop")
    row = look(context)
    assert (row.status, row.reason) == ("FAILED", "stopped_outside")
    assert "1000" in row.reason_text


def test_a_worker_that_dies_in_the_middle_leaves_one_job(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted, and dead before it was written down: the next worker finds the job by its name."""
    first, second = make_context("noop"), make_context("noop")
    fake = FakeBackend()
    first._backends["noop"] = second._backends["noop"] = fake
    start(first)

    class Dead(Exception):
        pass

    def die(*_: object) -> None:
        raise Dead

    monkeypatch.setattr(first.launcher, "_record", die)
    with pytest.raises(Dead):
        first.launcher.launch("noop", 10)
    assert look(second).status == "STAGING_DATA"
    sweeper = LeaseSweep(second.database, second.doorbell)
    sweeper.tick()
    assert look(second).status == "STAGING_DATA"
    with second.database.begin() as unit:
        unit.execute("UPDATE step_runs SET lease_until = now() - interval '1 second'")
    sweeper.tick()
    assert "stopped answering" in look(second).waiting_for
    launch(second)
    row = look(second)
    assert (row.status, row.job_id, row.attempt) == ("SUBMITTED", "fake-1", 1)
    assert len(fake.jobs) == 1


class Between(Plan):
    """Does something, once, when somebody comes by a point."""

    def __init__(self, name: str, moment: str, action: Callable[[], object]) -> None:
        super().__init__("")
        self._where, self._todo = (name, moment), [action]

    def at(self, name: str, moment: str) -> None:
        if (name, moment) == self._where and self._todo:
            self._todo.pop()()


def test_a_lease_that_was_renewed_at_the_last_moment_is_kept(context: Context) -> None:
    """The worker was slow, not dead: it renews its lease while the sweep is about to take it."""
    start(context)
    with context.database.begin() as unit:
        [item] = RunStore(unit).claim("noop", "slow", 1, -1)

    def renew() -> None:
        with context.database.begin() as unit:
            assert LeaseStore(unit).renew({item.step_run_id: item.token}, "slow", 60).kept == {item.step_run_id}

    failpoints.arm(Between("commit.silent", failpoints.AFTER, renew))
    try:
        LeaseSweep(context.database, context.doorbell).tick()
    finally:
        failpoints.arm(None)
    row = look(context)
    assert (row.status, row.lease_owner, row.token) == ("STAGING_DATA", "slow", item.token)
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET lease_until = now() - interval '1 second'")
    LeaseSweep(context.database, context.doorbell).tick()
    assert look(context).status == "PENDING"
    with context.database.begin() as unit:
        assert not LeaseStore(unit).renew({item.step_run_id: item.token}, "slow", 60).kept


def test_cancel_between_submit_and_record_stops_the_job(context: Context, fake: FakeBackend) -> None:
    """The wish came while the worker was dead: the job is found by name and stopped."""
    run_id = start(context)
    fake.accept_then_fail = BackendUnavailable("timed out")
    launch(context)
    context.requests.cancel([run_id], actor="anna")
    assert look(context).status == "PENDING"
    context.canceller.cancel_wanted("noop")
    assert look(context).status == "CANCELLED"
    assert fake.cancelled == ["fake-1"]
