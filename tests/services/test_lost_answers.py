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
from ccat_workflow_manager.errors import Invalid, RequestError, ServiceUnavailable
from ccat_workflow_manager.services.requests import RunRequest
from ccat_workflow_manager.services.run_planning import RunSubmission
from ccat_workflow_manager.testing.failpoints import Plan
from ccat_workflow_manager.testing.invariants import while_working
from tests.support.waiting import wait_until

SPEC: dict[str, Any] = {"name": "one", "steps": [{"name": "only", "command": ["a"]}]}


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def together(
    context: Context, requests: Sequence[tuple[RunRequest, str | None]], plan: str
) -> list[tuple[UUID, str | None] | RequestError | ServiceUnavailable]:
    """Have these carried out in one transaction, to which this happens: what each caller is told."""
    combiner = context.requests._together
    create, held, may_go = combiner._work, Event(), Event()
    batches: list[int] = []

    def work(wishes: Sequence[RunSubmission]) -> Sequence[tuple[UUID, str | None] | RequestError]:
        batches.append(len(wishes))
        if wishes[0].actor == "first":
            held.set()
            may_go.wait(30)
        elif len(wishes) > 1:
            failpoints.arm(Plan(plan))
        return create(wishes)

    def ask(request: RunRequest, key: str | None) -> tuple[UUID, str | None] | RequestError | ServiceUnavailable:
        try:
            return context.requests.create_shown(request, actor="test", idempotency_key=key)
        except (RequestError, ServiceUnavailable) as error:
            return error

    def waits(number: int) -> bool:
        return len(combiner._waiting) == number

    combiner._work, combiner._at_once = work, 1
    with ThreadPoolExecutor(10) as threads:
        first = threads.submit(context.requests.create_shown, RunRequest(spec=SPEC), actor="first")
        assert held.wait(30)
        asked = []
        for number, (request, key) in enumerate(requests, 1):
            asked.append(threads.submit(ask, request, key))
            wait_until(partial(waits, number))
        may_go.set()
        first.result(30)
        answers = [each.result(30) for each in asked]
    assert batches[:2] == [1, len(requests)]
    return answers


def runs(context: Context) -> set[UUID]:
    with context.database.read() as unit:
        assert list(while_working(unit)) == []
        return {row[0] for row in unit.execute("SELECT id FROM runs WHERE created_by = 'test'")}


@pytest.mark.usefixtures("disarmed")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_each_request_makes_one_run_and_is_told_of_it(context: Context, moment: str) -> None:
    requests = [(RunRequest(spec=SPEC, labels={"n": str(n)}), "key" if n == 3 else None) for n in range(5)]
    answers = together(context, requests, f"* commit.create {moment} timeout")
    made = []
    for number, answer in enumerate(answers):
        assert isinstance(answer, tuple)
        run_id, shown = answer
        assert shown is not None, "it is new"
        run = json.loads(shown)
        assert (run["id"], run["labels"], len(run["step_runs"])) == (str(run_id), {"n": str(number)}, 1)
        made.append(run_id)
    assert runs(context) == set(made)
    assert len(set(made)) == 5


@pytest.mark.usefixtures("disarmed")
def test_the_fault_of_one_is_told_to_that_one(context: Context) -> None:
    requests = [(RunRequest(spec=SPEC), None), (RunRequest(), None), (RunRequest(spec=SPEC), None)]
    answers = together(context, requests, "* commit.create after timeout")
    assert [type(answer) for answer in answers] == [tuple, Invalid, tuple]
    assert len(runs(context)) == 2


@pytest.mark.usefixtures("disarmed")
def test_two_with_one_key_get_one_run(context: Context) -> None:
    answers = together(context, [(RunRequest(spec=SPEC), "key")] * 3, "* commit.create after timeout")
    made = {answer[0] for answer in answers if isinstance(answer, tuple)}
    assert (len(answers), len(made)) == (3, 1)
    assert runs(context) == made
    assert sum(isinstance(answer, tuple) and answer[1] is not None for answer in answers) == 1


@pytest.mark.usefixtures("disarmed")
def test_who_is_told_nothing_may_ask_again_with_the_same_wish(context: Context) -> None:
    wish = RunSubmission(RunRequest(spec=SPEC), "test")
    failpoints.arm(Plan("* commit.create after timeout"))
    with pytest.raises(ServiceUnavailable):
        context.requests._create_together([wish])
    [again] = context.requests._create_together([wish])
    assert isinstance(again, tuple)
    assert runs(context) == {again[0]}
