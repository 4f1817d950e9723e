"""The table of transitions and what is derived from it."""

from __future__ import annotations

from itertools import combinations

import pytest

from ccat_workflow_manager.errors import Conflict
from ccat_workflow_manager.failures import FAILURES, FailureReason
from ccat_workflow_manager.lifecycle.event_types import TYPES
from ccat_workflow_manager.lifecycle.states import (
    ACTIVE,
    CANCELLABLE,
    FINISHED,
    INITIAL,
    LEASED,
    LIVE,
    RETRYABLE,
    TRANSITIONS,
    Event,
    IllegalTransition,
    RunStatus,
    Status,
    next_status,
    run_status,
)

S = Status


def test_the_derived_sets() -> None:
    assert {S.COMPLETED, S.FAILED, S.CANCELLED, S.SKIPPED} == FINISHED
    assert set(S) - FINISHED == CANCELLABLE
    assert {S.SUBMITTED, S.RUNNING} == LIVE
    assert {S.STAGING_DATA, S.COLLECTING_RESULTS} == LEASED
    assert LIVE | LEASED == ACTIVE
    assert {S.FAILED, S.CANCELLED, S.SKIPPED} == RETRYABLE


def test_every_status_is_reachable_and_can_reach_an_end() -> None:
    def reach(start: Status) -> set[Status]:
        found, waiting = {start}, [start]
        while waiting:
            here = waiting.pop()
            new = {after for (before, _), after in TRANSITIONS.items() if before is here} - found
            found |= new
            waiting += new
        return found

    assert reach(INITIAL) == set(S)
    for status in S:
        assert reach(status) & FINISHED


def test_only_a_retry_or_a_person_leads_out_of_an_end() -> None:
    by_hand = {Event.SET_COMPLETED, Event.SET_SKIPPED}
    assert {event for before, event in TRANSITIONS if before in FINISHED} == {Event.RETRIED} | by_hand
    assert {after for (_, event), after in TRANSITIONS.items() if event in by_hand} == {S.COMPLETED, S.SKIPPED}
    assert all(TRANSITIONS[status, Event.RETRIED] is INITIAL for status in RETRYABLE)
    assert not any(before is S.COMPLETED for before, _ in TRANSITIONS)


def test_every_event_but_the_first_is_in_the_table() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event) - {Event.CREATED}


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("status", S)
def test_a_transition_outside_the_table_is_illegal(status: Status, event: Event) -> None:
    if (status, event) in TRANSITIONS:
        assert next_status(status, event) is TRANSITIONS[status, event]
    else:
        with pytest.raises(IllegalTransition) as caught:
            next_status(status, event)
        assert isinstance(caught.value, Conflict)
        assert status in caught.value.message


SOME = [chosen for size in range(1, len(S) + 1) for chosen in combinations(S, size)]


def test_a_run_is_finished_exactly_when_all_its_step_runs_are() -> None:
    over = {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}
    for chosen in SOME:
        assert (run_status(dict.fromkeys(chosen, 2)) in over) == (set(chosen) <= FINISHED)


def test_the_status_of_a_run_over_all_combinations() -> None:
    for chosen in SOME:
        status = run_status(dict.fromkeys(chosen, 1))
        present = set(chosen)
        if present & CANCELLABLE:
            assert status == (RunStatus.PENDING if present == {S.PENDING} else RunStatus.RUNNING)
        elif S.FAILED in present:
            assert status is RunStatus.FAILED
        elif S.CANCELLED in present:
            assert status is RunStatus.CANCELLED
        else:
            assert status is RunStatus.COMPLETED


def test_zero_counts_do_not_matter() -> None:
    assert run_status({**dict.fromkeys(S, 0), S.RUNNING: 1}) is RunStatus.RUNNING
    assert run_status({**dict.fromkeys(S, 0), S.PENDING: 5}) is RunStatus.PENDING


def test_every_reason_of_failure_is_explained() -> None:
    assert set(FAILURES) == set(FailureReason)
    assert all(info.text.endswith(".") for info in FAILURES.values())


def test_readers_outside_know_every_event() -> None:
    assert {str(event) for event in Event} <= TYPES.keys()
