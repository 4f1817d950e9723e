"""Requests whose answer from the database was lost: what was committed is found again, and nothing is made twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.runs import run_detail
from ccat_workflow_manager.errors import Conflict, RequestError, ServiceUnavailable
from ccat_workflow_manager.services.run_planning import PlannedRun
from ccat_workflow_manager.services.run_request import RunRequest, RunSubmission
from ccat_workflow_manager.services.submit import Submitted
from tests.support.armed import Plan
from tests.support.invariants import while_working
from tests.support.waiting import PATIENCE, wait_until

SPEC: dict[str, Any] = {"name": "one", "steps": [{"name": "only", "command": ["a"]}]}


@pytest.fixture(params=["inline", "registered"])
def one(request: pytest.FixtureRequest, context: Context) -> dict[str, Any]:
    """A definition as a request has it. Runs of a registered one are created by a single statement."""
    if request.param == "inline":
        return {"spec": SPEC}
    context.catalogue.apply(SPEC)
    return {"pipeline": SPEC["name"]}


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def together(
    context: Context, requests: Sequence[tuple[RunRequest, str | None]], plan: str
) -> list[Submitted | RequestError | ServiceUnavailable]:
    """Submit these requests in one transaction with this failpoint. Returns the outcome of each caller."""
    combiner = context.submitter._combiner
    create, held, may_go = combiner._work, Event(), Event()
    batches: list[int] = []

    def work(planned: Sequence[PlannedRun]) -> Sequence[Submitted | RequestError]:
        batches.append(len(planned))
        if planned[0].submission.actor == "first":
            held.set()
            may_go.wait(PATIENCE)
        elif len(planned) > 1:
            failpoints.arm(Plan(plan))
        return create(planned)

    def ask(request: RunRequest, key: str | None) -> Submitted | RequestError | ServiceUnavailable:
        try:
            return context.submitter.submit(request, actor="test", idempotency_key=key)
        except (RequestError, ServiceUnavailable) as error:
            return error

    def waits(number: int) -> bool:
        return combiner.queued == number

    combiner._work, combiner._at_once = work, 1
    with ThreadPoolExecutor(10) as threads:
        first = threads.submit(context.submitter.submit, RunRequest(spec=SPEC), actor="first")
        assert held.wait(PATIENCE)
        asked = []
        for number, (request, key) in enumerate(requests, 1):
            asked.append(threads.submit(ask, request, key))
            wait_until(partial(waits, number))
        may_go.set()
        first.result(PATIENCE)
        answers = [each.result(PATIENCE) for each in asked]
    assert batches[:2] == [1, len(requests)]
    return answers


def runs(context: Context) -> set[UUID]:
    with context.database.read() as unit:
        assert list(while_working(unit)) == []
        return {row[0] for row in unit.execute("SELECT id FROM runs WHERE created_by = 'test'")}


@pytest.mark.usefixtures("disarmed")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_each_request_makes_one_run_and_is_told_of_it(context: Context, one: dict[str, Any], moment: str) -> None:
    requests = [(RunRequest(**one, labels={"n": str(n)}), "key" if n == 3 else None) for n in range(5)]
    answers = together(context, requests, f"* commit.create {moment} timeout")
    made = []
    for number, answer in enumerate(answers):
        assert isinstance(answer, Submitted)
        assert answer.is_new
        with context.database.read() as unit:
            found = run_detail(unit, answer.run_id)
        assert found is not None
        run = json.loads(found.text())
        assert (run["id"], run["labels"], len(run["step_runs"])) == (str(answer.run_id), {"n": str(number)}, 1)
        made.append(answer.run_id)
    assert runs(context) == set(made)
    assert len(set(made)) == 5


@pytest.mark.usefixtures("disarmed")
def test_the_fault_of_one_is_told_to_that_one(context: Context, one: dict[str, Any]) -> None:
    other = RunRequest(**one, priority=1)
    requests = [(RunRequest(**one), "key"), (other, "key"), (RunRequest(**one), None)]
    answers = together(context, requests, "* commit.create after timeout")
    assert [type(answer) for answer in answers] == [Submitted, Conflict, Submitted]
    assert len(runs(context)) == 2


@pytest.mark.usefixtures("disarmed")
def test_two_with_one_key_get_one_run(context: Context, one: dict[str, Any]) -> None:
    answers = together(context, [(RunRequest(**one), "key")] * 3, "* commit.create after timeout")
    made = {answer.run_id for answer in answers if isinstance(answer, Submitted)}
    assert (len(answers), len(made)) == (3, 1)
    assert runs(context) == made
    assert sum(isinstance(answer, Submitted) and answer.is_new for answer in answers) == 1


@pytest.mark.usefixtures("disarmed")
def test_a_submission_without_an_answer_can_be_repeated(context: Context, one: dict[str, Any]) -> None:
    submitter = context.submitter
    planned = submitter._planner().plan(RunSubmission(RunRequest(**one), "test"))
    failpoints.arm(Plan("* commit.create after timeout"))
    with pytest.raises(ServiceUnavailable):
        submitter._create([planned])
    [again] = submitter._create([planned])
    assert isinstance(again, Submitted)
    assert runs(context) == {again.run_id}
