"""All interleavings of two workers, a manager, a backend and a user, with what may go wrong, keep the promises."""

from __future__ import annotations

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.lifecycle.states import Event, Status
from ccat_workflow_manager.services.run_request import RunRequest
from tests.api.rest import CHAIN, Hand
from tests.model.explorer import explore
from tests.model.traces import is_path, strangers, traces_of
from tests.model.world import Budget, Label, Rules, World

SOON = [
    Budget(crashes=1, cancels=1, takings=2),
    Budget(crashes=1, retries=1, takings=2),
    Budget(losses=1, doubles=1),
    Budget(deferrals=1, doubles=1),
    Budget(crashes=2, losses=1),
    Budget(cancels=1, outside=1),
    Budget(expiries=1),
]
LATER = [
    Budget(crashes=1, expiries=1, cancels=1),
    Budget(doubles=2, cancels=1),
    Budget(retries=1, cancels=1, outside=1),
]


@pytest.mark.parametrize("budget", SOON, ids=str)
def test_no_attempt_runs_twice_none_is_lost_ends_are_ends_and_cancels_are_confirmed(budget: Budget) -> None:
    walk = explore(World(budget=budget), Rules())
    assert walk.complete
    assert walk.wrong is None, walk.path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "rules"),
    [*((budget, Rules()) for budget in LATER), *((budget, Rules(punctual=False)) for budget in [*SOON[-3:], *LATER])],
    ids=str,
)
def test_a_longer_walk(budget: Budget, rules: Rules) -> None:
    walk = explore(World(budget=budget), rules, most=200_000)
    assert walk.wrong is None, walk.path


@pytest.mark.parametrize(
    ("without", "budget", "found"),
    [
        (Rules(fence=False), Budget(), "two attempts of one step run run"),
        (Rules(fence=False), Budget(cancels=1), "CANCELLED, and its job lives"),
        (Rules(claim=False, punctual=False), Budget(expiries=1, takings=2), "two jobs of one attempt run"),
        (Rules(sweep=False), Budget(losses=1), "nothing leads on from"),
    ],
    ids=["fence", "fence, cancel", "claim", "sweep"],
)
def test_without_a_protection_what_it_protects_from_is_found(without: Rules, budget: Budget, found: str) -> None:
    walk = explore(World(budget=budget), without)
    assert walk.wrong is not None
    assert walk.wrong.startswith(found), walk.path
    protected = explore(World(budget=budget), Rules(punctual=without.punctual))
    assert protected.wrong is None, protected.path


# --- traces ----------------------------------------------------------------------------------------------------------

S, E = Status, Event


def _attempt(number: int) -> list[Label]:
    chain = [S.PENDING, S.STAGING_DATA, S.SUBMITTED, S.RUNNING, S.COLLECTING_RESULTS, S.COMPLETED]
    events = [E.CLAIMED, E.JOB_SUBMITTED, E.JOB_STARTED, E.JOB_SUCCEEDED, E.RESULTS_COLLECTED]
    return [Label(event, before, after, number) for event, before, after in zip(events, chain, chain[1:], strict=False)]


RELEASED = Label(E.RELEASED, S.STAGING_DATA, S.PENDING, 1)
RETRIED = [Label(E.FAILED, S.RUNNING, S.FAILED, 1), Label(E.RETRIED, S.FAILED, S.PENDING, 1)]


def test_what_a_deployment_stores_is_a_path(context: Context) -> None:
    hand = Hand(context)
    run_id, *_ = context.submitter.submit(RunRequest(spec=CHAIN, parameters={"scans": [1, 2]}), actor="test")
    while items := hand.claim():
        hand.fail(items[0]) if items[0].step == "second" else hand.complete(items[0])
    with context.database.read() as unit:
        assert {trace[-1].after for trace in traces_of(unit, [run_id]).values()} == {S.COMPLETED, S.FAILED, S.SKIPPED}
        assert strangers(unit, [run_id]) == []
    hand.execute("UPDATE events SET attempt = 2 WHERE event = 'job_submitted' AND run_id = :id", id=run_id)
    with context.database.read() as unit:
        assert len(strangers(unit, [run_id])) == 4


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (_attempt(1), True),
        ([_attempt(1)[0], RELEASED, *_attempt(1)], True),
        ([*_attempt(1)[:3], *RETRIED, *_attempt(2)], True),
        ([_attempt(1)[0], RELEASED, *_attempt(2)], False),
        ([*_attempt(1)[:3], *RETRIED, *_attempt(1)], False),
        ([*_attempt(1)[:2], *_attempt(1)[1:]], False),
        ([*_attempt(1), Label(E.RETRIED, S.COMPLETED, S.PENDING, 1)], False),
    ],
    ids=["all well", "taken back", "retried", "attempt left out", "attempt twice", "submitted twice", "out of an end"],
)
def test_a_trace_is_a_path_of_the_model_or_not(trace: list[Label], expected: bool) -> None:
    assert is_path(tuple(trace)) is expected
