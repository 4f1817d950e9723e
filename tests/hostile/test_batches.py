"""No batch fails for one member: its neighbours go on, and the culprit has a reason of ours."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.batches import BatchWriter
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import Capabilities, HPCBackend, JobRequest
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Facts, NewProduct, Transition, TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import backend_problem, launch, poll, rows, start


def statuses(context: Context) -> Counter[str]:
    return Counter(each.status for each in rows(context))


# --- what a backend answers -------------------------------------------------------------------------------------------

HOSTILE_ANSWERS: Mapping[str, Any] = {
    "nothing": None,
    "another type": "completed",
    "an exit code beyond its column": HPCJobInfo(JobStatus.FAILED, exit_code=10**12),
    "a text for a code": HPCJobInfo(JobStatus.FAILED, exit_code="one"),  # type: ignore[arg-type]
    "not a number": HPCJobInfo(JobStatus.COMPLETED, 0, wall_time_seconds=float("nan")),
    "infinite": HPCJobInfo(JobStatus.COMPLETED, 0, cpu_hours=float("inf")),
    "bytes": HPCJobInfo(JobStatus.FAILED, 1, message=b"\xff"),  # type: ignore[arg-type]
    "a number for a time": HPCJobInfo(JobStatus.RUNNING, started_at=12.5),  # type: ignore[arg-type]
    "a reason that is none": HPCJobInfo(JobStatus.FAILED, 1, reason=["lost"]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("answer", HOSTILE_ANSWERS.values(), ids=HOSTILE_ANSWERS)
def test_one_bad_answer_of_a_status_call(context: Context, backend: FakeBackend, answer: Any) -> None:
    start(context, count=10)
    assert launch(context) == 10
    for job in backend.jobs.values():
        job.info = HPCJobInfo(JobStatus.COMPLETED, 0)
    backend.jobs["fake-3"].info = answer
    poll(context)
    assert statuses(context) == {"COMPLETED": 9, "SUBMITTED": 1}
    [bad] = [each for each in rows(context) if each.status == "SUBMITTED"]
    assert bad.waiting_for.startswith("noop failed in an unexpected way")
    assert backend_problem(context) is None
    backend.jobs["fake-3"].info = HPCJobInfo(JobStatus.COMPLETED, 0)
    poll(context)
    assert statuses(context) == {"COMPLETED": 10}


def test_a_bad_answer_about_a_cancelled_job(context: Context, backend: FakeBackend) -> None:
    start(context, count=2)
    launch(context)
    backend.stubborn = True
    for job, info in zip(backend.jobs.values(), (None, HPCJobInfo(JobStatus.CANCELLED)), strict=True):
        job.info = info  # type: ignore[assignment]
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET cancel_requested_at = now(), cancel_requested_by = 'test'")
    assert context.canceller.cancel_wanted("noop") == 1
    assert statuses(context) == {"CANCELLED": 1, "SUBMITTED": 1}


class FourMethods(HPCBackend):
    """Raises for one of its jobs."""

    name: ClassVar[str] = "four"
    capabilities: ClassVar[Capabilities] = Capabilities(executes=False)

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.ids: list[str] = []

    def submit(self, **keywords: Any) -> str:
        self.ids.append(keywords["job_name"])
        return self.ids[-1]

    def get_status(self, job_id: str) -> HPCJobInfo:
        if job_id == self.ids[3]:
            raise self.error
        return HPCJobInfo(JobStatus.COMPLETED, 0)

    def cancel(self, job_id: str) -> None:
        """Nothing to stop."""

    def get_logs(self, job_id: str) -> str:
        return ""


class SlowSubmit(FourMethods):
    """Takes half a lease for each job. Meanwhile another worker looks for work."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(ZeroDivisionError())
        self.meanwhile = meanwhile

    def submit(self, **keywords: Any) -> str:
        self.meanwhile()
        return super().submit(**keywords)


def test_a_slow_four_method_backend_submits_each_job_once(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_context("noop"), make_context("noop")
    sweep = LeaseSweep(second.database, second.doorbell)
    passed = 0.0

    def meanwhile() -> None:
        nonlocal passed
        passed += 10
        with second.database.begin() as unit:
            unit.execute("UPDATE step_runs SET lease_until = lease_until - interval '10 seconds'")
        sweep.tick()
        second.launcher.launch("noop", 10)

    backend = SlowSubmit(meanwhile)
    first.use_backend("noop", backend)
    second.use_backend("noop", FakeBackend())
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + passed)
    start(first, count=8)
    assert first.launcher.launch("noop", 10) == 8
    assert len(backend.ids) == len(set(backend.ids)) == 8
    assert {(each.status, each.claims) for each in rows(first)} <= {("SUBMITTED", 1), ("COMPLETED", 1)}


@pytest.mark.parametrize("error", [BackendConfused("<html>"), ZeroDivisionError()])
def test_an_error_about_one_job_of_a_four_method_backend(context: Context, error: Exception) -> None:
    context.use_backend("noop", FourMethods(error))
    start(context, count=10)
    launch(context)
    poll(context)
    assert statuses(context) == {"COMPLETED": 9, "SUBMITTED": 1}


WORDS = {"NUL": "a\0b", "half of a surrogate pair": "a\ud800b"}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_words_of_a_backend_that_postgresql_cannot_hold(context: Context, backend: FakeBackend, words: str) -> None:
    start(context, count=2)
    launch(context)
    backend.set_state("fake-1", HPCJobInfo(JobStatus.PENDING, message=words))
    backend.set_state("fake-2", HPCJobInfo(JobStatus.COMPLETED, 0, warning=words, node=words))
    poll(context)
    assert statuses(context) == {"COMPLETED": 1, "SUBMITTED": 1}
    assert {each.waiting_for for each in rows(context)} == {"a\ufffdb", None}
    backend.status_error = BackendUnavailable(words)
    poll(context)
    assert backend_problem(context) == "a\ufffdb"


# --- what PostgreSQL refuses ------------------------------------------------------------------------------------------


class OneId(FakeBackend):
    """Gives every second job the id of the first."""

    def submit_many(self, requests: Sequence[JobRequest]) -> list[Any]:
        results = super().submit_many(requests)
        return [results[0] if number == 5 else each for number, each in enumerate(results)]


def test_a_job_id_that_another_attempt_has(context: Context) -> None:
    backend = OneId()
    context.use_backend("noop", backend)
    start(context, count=10)
    assert launch(context) == 10
    assert statuses(context) == {"SUBMITTED": 9, "FAILED": 1}
    [bad] = [each for each in rows(context) if each.status == "FAILED"]
    assert bad.reason == "internal_error"
    assert "PostgreSQL refuses" in bad.reason_text


def test_a_number_of_results_that_is_not_that_of_the_jobs(context: Context, backend: FakeBackend) -> None:
    start(context, count=2)
    backend.submit_many = lambda requests: []  # type: ignore[method-assign]
    launch(context)
    assert {each.status for each in rows(context)} == {"PENDING"}
    assert "0 results for 2 jobs" in str(backend_problem(context))


def test_a_product_that_no_index_takes(context: Context) -> None:
    start(context, count=5)
    with context.database.begin() as unit:
        items = RunStore(unit).claim("noop", "w", 10, 60)
    randomness = random.Random(1)
    name = "".join(randomness.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(6000))

    def transition(step_run_id: UUID, token: int, number: int) -> Transition:
        events = [Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED, Event.RESULTS_COLLECTED]
        product = NewProduct(name if number == 2 else "map", "SCIENCE", "map", 1, "0" * 64)
        facts = Facts(job_id=f"job-{number}", finished_at=datetime.now(UTC))
        return Transition(step_run_id, [TransitionEvent(e, "w") for e in events], token, facts, products=[product])

    writer = BatchWriter(context.database, "commit.collected", actor="w")
    done = writer.write([transition(item.step_run_id, item.token, n) for n, item in enumerate(items)])
    bad = items[2].step_run_id
    assert (set(done.applied), set(done.refused)) == ({item.step_run_id for item in items} - {bad}, {bad})
    assert statuses(context) == {"COMPLETED": 4, "FAILED": 1}
    assert [each.status for each in rows(context, "status", "runs")].count("FAILED") == 1
    [reason] = {each.reason for each in rows(context) if each.status == "FAILED"}
    assert reason == FailureReason.INTERNAL_ERROR
