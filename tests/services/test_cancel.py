"""Cancelling many: what cannot be stopped or told of keeps nothing else from being stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendError, BackendUnavailable, JobDeferred
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.services import cancel
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.fixtures_store import ContextMaker

SPEC: dict[str, Any] = {"name": "one", "steps": [{"name": "only", "command": ["a"], "retry": {"backoff_seconds": 0}}]}


class Noting(FakeBackend):
    """Finds jobs as it is told to, and remembers what it was to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.find_error: Exception | None = None
        self.finds = 0
        self.cancel_error: Exception | None = None
        self.forgotten: list[str] = []

    def find(self, job_name: str) -> str | None:
        self.finds += 1
        if self.find_error is not None:
            raise self.find_error
        return super().find(job_name)

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        if self.cancel_error is not None:
            raise self.cancel_error
        super().cancel_many(job_ids)

    def cleanup(self, job_id: str) -> None:
        self.forgotten.append(job_id)


class Clock:
    """The time as a test says it is."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def backend() -> Noting:
    return Noting()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def context(make_context: ContextMaker, backend: Noting, clock: Clock) -> Context:
    context = make_context("noop", CANCEL_CONFIRM_SECONDS=0.01)
    context._backends["noop"] = backend
    context.canceller._clock = clock
    return context


def start(context: Context, count: int = 1) -> list[UUID]:
    runs, _ = context.submitter.submit_bulk([RunRequest(spec=SPEC)] * count, actor="test")
    with context.database.begin() as unit:
        unit.execute("UPDATE backends SET retry_at = now()")
    context.launcher.launch("noop", count)
    return runs


def start_unsettled(context: Context, backend: Noting) -> list[UUID]:
    """A job that the backend may have taken: the answer was lost."""
    backend.accept_then_fail = BackendUnavailable("the answer was lost")
    runs = start(context)
    backend.accept_then_fail = None
    return runs


def rows(context: Context, columns: str = "status, waiting_for") -> list[Any]:
    with context.database.read() as unit:
        return list(unit.execute(f"SELECT {columns} FROM step_runs ORDER BY id").all())


def problem(context: Context) -> Any:
    with context.database.read() as unit:
        return unit.execute("SELECT problem FROM backends").scalar()


# --- one that cannot be told ------------------------------------------------------------------------------------------


def test_one_submission_that_is_not_settled_keeps_no_other_from_being_stopped(
    context: Context, backend: Noting
) -> None:
    runs = [*start_unsettled(context, backend), *start(context, 2)]
    context.requests.cancel(runs, actor="anna")
    backend.find_error = JobDeferred("an earlier try to submit it is not settled yet")
    assert context.canceller.cancel_wanted("noop") == 2
    assert backend.cancelled == ["fake-2", "fake-3"]
    assert [tuple(row) for row in rows(context)] == [
        ("PENDING", "an earlier try to submit it is not settled yet"), ("CANCELLED", None), ("CANCELLED", None),
    ]  # fmt: skip


@pytest.mark.parametrize("error", [BackendUnavailable("squeue: timed out"), RuntimeError("a bug")])
def test_what_is_known_is_stopped_though_another_cannot_be_searched_for(
    context: Context, backend: Noting, error: Exception
) -> None:
    runs = [*start_unsettled(context, backend), *start_unsettled(context, backend), *start(context)]
    context.requests.cancel(runs, actor="anna")
    backend.find_error = error
    assert context.canceller.cancel_wanted("noop") == 1
    assert backend.cancelled == ["fake-3"]
    assert [row.status for row in rows(context)] == ["PENDING", "PENDING", "CANCELLED"]
    words = str(error.args[0])
    assert all("not confirmed yet" in row.waiting_for and words in row.waiting_for for row in rows(context)[:2])
    assert words in problem(context)
    # One that does not answer at all is not asked for each of them.
    assert backend.finds == (1 if isinstance(error, BackendError) else 2)


def test_a_backend_that_raises_what_it_may_not_is_shown(context: Context, backend: Noting) -> None:
    runs = start(context)
    context.requests.cancel(runs, actor="anna")
    backend.cancel_error = KeyError("a bug of the backend")
    assert context.canceller.cancel_wanted("noop") == 0
    assert "a bug of the backend" in rows(context)[0].waiting_for
    assert "a bug of the backend" in problem(context)


# --- many that do not stop --------------------------------------------------------------------------------------------


def test_those_that_do_not_stop_keep_no_newer_one_from_being_asked(
    context: Context, backend: Noting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel, "PAGE", 2)
    backend.stubborn = True
    context.requests.cancel(start(context, 5), actor="anna")
    context.canceller.cancel_wanted("noop")
    assert sorted(backend.cancelled) == [f"fake-{number}" for number in range(1, 6)]


def test_one_that_does_not_stop_is_asked_less_and_less_often(context: Context, backend: Noting, clock: Clock) -> None:
    backend.stubborn = True
    context.requests.cancel(start(context), actor="anna")
    asked = []
    for second in range(100):
        clock.now = float(second)
        before = len(backend.cancelled)
        context.canceller.cancel_wanted("noop")
        if len(backend.cancelled) > before:
            asked.append(second)
    assert asked == [0, 1, 3, 7, 15, 31, 61, 91]


def test_one_that_is_asked_for_now_is_not_kept_waiting_by_those_that_wait(context: Context, backend: Noting) -> None:
    backend.stubborn = True
    context.requests.cancel(start(context), actor="anna")
    context.canceller.cancel_wanted("noop")
    backend.stubborn = False
    context.requests.cancel(start(context), actor="anna")
    assert context.canceller.cancel_wanted("noop") == 1
    assert backend.cancelled == ["fake-1", "fake-2"]


# --- trouble that is over ---------------------------------------------------------------------------------------------


def test_trouble_that_only_the_canceller_has_seen_is_over_when_it_gets_through(
    context: Context, backend: Noting, clock: Clock
) -> None:
    context.requests.cancel(start(context), actor="anna")
    backend.cancel_error = BackendUnavailable("slurmctld does not answer")
    context.canceller.cancel_wanted("noop")
    assert problem(context) == "slurmctld does not answer"
    backend.cancel_error = None
    clock.now = 10.0
    assert context.canceller.cancel_wanted("noop") == 1
    assert problem(context) is None


def test_trouble_of_another_kind_is_not_over_for_that(context: Context, backend: Noting) -> None:
    runs = start(context)
    backend.submit_error = BackendUnavailable("no route to host")
    start(context)
    context.requests.cancel(runs, actor="anna")
    assert context.canceller.cancel_wanted("noop") == 1
    assert problem(context) == "no route to host"


# --- ends that nobody has confirmed -----------------------------------------------------------------------------------


def age(context: Context) -> None:
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET unknown_since = now() - interval '150 seconds'")


def test_an_end_that_was_not_confirmed_says_so(context: Context, backend: Noting, clock: Clock) -> None:
    runs = start_unsettled(context, backend)
    backend.stubborn = True
    backend.set_state("fake-1", UNKNOWN)
    context.requests.cancel(runs, actor="anna")
    for clock.now in (0.0, 10.0):
        assert context.canceller.cancel_wanted("noop") == 0
    age(context)
    clock.now = 20.0
    assert context.canceller.cancel_wanted("noop") == 1
    [row] = rows(context, "status, reason_text")
    words = "cancelled; noop has not known the job fake-1 for 150 s, the stop is not confirmed"
    assert tuple(row) == ("CANCELLED", words)
    with context.database.read() as unit:
        assert unit.execute("SELECT warnings FROM attempts").scalar() == [words]
    assert backend.forgotten == [], "it may come back, and then has to be known"


def test_the_grace_of_a_cancel_begins_when_somebody_asks(context: Context, backend: Noting, clock: Clock) -> None:
    """A worker that has only just come looks twice before it takes a job as gone."""
    runs = start_unsettled(context, backend)
    backend.stubborn = True
    backend.set_state("fake-1", UNKNOWN)
    context.requests.cancel(runs, actor="anna")
    age(context)
    assert context.canceller.cancel_wanted("noop") == 0
    clock.now = 10.0
    assert context.canceller.cancel_wanted("noop") == 0


def test_a_confirmed_end_is_forgotten(context: Context, backend: Noting) -> None:
    context.requests.cancel(start(context), actor="anna")
    assert context.canceller.cancel_wanted("noop") == 1
    assert backend.forgotten == ["fake-1"]


def test_the_follower_leaves_the_words_of_a_cancel(context: Context, backend: Noting) -> None:
    backend.stubborn = True
    context.requests.cancel(start(context), actor="anna")
    context.canceller.cancel_wanted("noop")
    words = "asked noop to stop the job; not confirmed yet"
    for info in (
        HPCJobInfo(JobStatus.PENDING, message="Priority"), HPCJobInfo(JobStatus.RUNNING), UNKNOWN,
        HPCJobInfo(JobStatus.RUNNING),
    ):  # fmt: skip
        backend.set_state("fake-1", info)
        context.poller.poll_all("noop")
        assert rows(context)[0].waiting_for == words
