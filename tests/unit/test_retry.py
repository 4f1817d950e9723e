"""Which failures are retried, when, and with which resources."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.failures import FAILURES, RETRYABLE_BY_DEFAULT, FailureReason, Retry
from ccat_workflow_manager.lifecycle.models import Resources, RetryPolicy
from ccat_workflow_manager.lifecycle.retry import (
    JITTER,
    MAX_DELAY_SECONDS,
    MAX_MEMORY_GB,
    NEVER_RETRIED,
    RetryDecision,
    decide,
    refusal,
)

F = FailureReason


def decided(
    reason: F, attempt: int = 1, *, jitter: float = 0, resources: Resources | None = None, **policy: Any
) -> RetryDecision:
    decision = decide(reason, attempt, 3, RetryPolicy(**policy), resources or Resources(), jitter)
    assert decision is not None
    return decision


def refused(reason: F, attempt: int = 1, *, resources: Resources | None = None, **policy: Any) -> str:
    arguments = (reason, attempt, 3, RetryPolicy(**policy), resources or Resources())
    assert decide(*arguments, 0) is None
    text = refusal(*arguments)
    assert text is not None
    return text


@pytest.mark.parametrize("reason", F)
def test_without_a_list_the_table_of_failures_decides(reason: F) -> None:
    decision = decide(reason, 1, 2, RetryPolicy(), Resources(), 0)
    assert (decision is not None) == (reason in RETRYABLE_BY_DEFAULT) == (FAILURES[reason].retry is not Retry.NO)


@pytest.mark.parametrize("reason", F)
def test_with_a_list_the_list_decides(reason: F) -> None:
    listed = decide(reason, 1, 2, RetryPolicy(on=frozenset({reason})), Resources(), 0)
    assert (listed is not None) == (reason not in NEVER_RETRIED)
    assert decide(reason, 1, 2, RetryPolicy(on=frozenset()), Resources(), 0) is None


def test_a_listed_program_failure_is_repeated_with_equal_resources() -> None:
    decision = decided(F.PROGRAM_FAILED, on=frozenset({F.PROGRAM_FAILED}))
    assert decision.resources == Resources()
    assert decision.text == "attempt 2 of 3 in 10 s"


def test_there_is_no_attempt_after_the_last() -> None:
    assert refused(F.LOST, 3) == "no further attempt: this was attempt 3 of 3"
    assert "attempt 4 of 3" in refused(F.LOST, 4)
    assert refused(F.PROGRAM_FAILED) == "no further attempt: program_failed is not a reason to retry this step"


def test_out_of_memory_gets_more_memory_up_to_the_cap() -> None:
    two = Resources(memory_gb=2)
    assert decided(F.OUT_OF_MEMORY, resources=two).resources == Resources(memory_gb=4)
    assert decided(F.OUT_OF_MEMORY, resources=two).text == "attempt 2 of 3 in 10 s with 4 GB instead of 2 GB"
    assert decided(F.OUT_OF_MEMORY, resources=two, memory_cap_gb=3).resources.memory_gb == 3
    capped = refused(F.OUT_OF_MEMORY, resources=two, memory_cap_gb=2)
    assert capped == "no further attempt: more memory than 2 GB is not allowed (memory_cap_gb)"
    assert refused(F.OUT_OF_MEMORY, resources=Resources(memory_gb=MAX_MEMORY_GB))


def test_memory_grows_from_the_measured_peak_if_that_is_larger() -> None:
    def next_memory(peak: float | None, **policy: Any) -> float:
        decision = decide(F.OUT_OF_MEMORY, 1, 3, RetryPolicy(**policy), Resources(memory_gb=2), 0, peak)
        assert decision is not None
        return decision.resources.memory_gb

    assert [next_memory(peak) for peak in (None, 0, 1.9, 2, 5)] == [4, 4, 4, 4, 10]
    assert next_memory(5, memory_cap_gb=6) == 6
    assert next_memory(5, memory_factor=1) == 2
    lost = decide(F.LOST, 1, 3, RetryPolicy(), Resources(memory_gb=2), 0, 5)
    assert lost is not None
    assert lost.resources.memory_gb == 2


def test_time_limit_gets_more_time_up_to_the_cap() -> None:
    assert decided(F.TIME_LIMIT, time_factor=1.5).resources == Resources(time_hours=1.5)
    assert decided(F.TIME_LIMIT, time_factor=1.5).text == "attempt 2 of 3 in 10 s with 1.5 h instead of 1 h"
    assert decided(F.TIME_LIMIT, time_cap_hours=1.2).resources.time_hours == 1.2
    assert "more time than 1 h" in refused(F.TIME_LIMIT, time_cap_hours=1)


def test_a_factor_of_one_keeps_the_resources_even_at_the_cap() -> None:
    assert decided(F.OUT_OF_MEMORY, memory_factor=1, memory_cap_gb=2).resources == Resources()
    assert decided(F.TIME_LIMIT, time_factor=1, time_cap_hours=1).resources == Resources()


def test_the_back_off_doubles_and_ends_at_an_hour() -> None:
    policy = RetryPolicy(max_attempts=100, backoff_seconds=10)
    delays = []
    for attempt in (1, 2, 3, 10, 99):
        decision = decide(F.LOST, attempt, 100, policy, Resources(), 0)
        assert decision is not None
        delays.append(decision.delay_seconds)
    assert delays == [10, 20, 40, 3600, 3600]


def test_no_back_off() -> None:
    decision = decided(F.LOST, backoff_seconds=0, jitter=0.9)
    assert decision.delay_seconds == 0
    assert decision.text == "attempt 2 of 3 at once"


@pytest.mark.parametrize(("seconds", "words"), [(12, "in 12 s"), (240, "in 4 min"), (3600, "in 1.0 h")])
def test_the_text_names_the_delay(seconds: float, words: str) -> None:
    assert words in decided(F.LOST, backoff_seconds=seconds).text


@given(
    reason=st.sampled_from(F),
    attempt=st.integers(1, 100),
    max_attempts=st.integers(1, 100),
    backoff=st.floats(0, MAX_DELAY_SECONDS),
    jitter=st.floats(0, 1, exclude_max=True),
    factor=st.floats(1, 100),
    memory=st.floats(1e-9, MAX_MEMORY_GB),
    cap=st.none() | st.floats(1e-9, MAX_MEMORY_GB),
)
def test_every_decision_is_within_bounds(
    reason: F,
    attempt: int,
    max_attempts: int,
    backoff: float,
    jitter: float,
    factor: float,
    memory: float,
    cap: float | None,
) -> None:
    policy = RetryPolicy(max_attempts, backoff, None, factor, cap, factor, None)
    resources = Resources(memory_gb=memory)
    decision = decide(reason, attempt, max_attempts, policy, resources, jitter)
    assert (decision is None) == (refusal(reason, attempt, max_attempts, policy, resources) is not None)
    if decision is not None:
        assert attempt < max_attempts
        assert backoff <= decision.delay_seconds <= MAX_DELAY_SECONDS * (1 + JITTER)
        assert memory <= decision.resources.memory_gb <= max(memory, MAX_MEMORY_GB if cap is None else cap)
        assert resources.time_hours <= decision.resources.time_hours


@pytest.mark.parametrize("reason", F)
def test_nothing_is_retried_after_the_irreversible(reason: F) -> None:
    assert "state/sent" in refused(reason, irreversible_after="state/sent", irreversible=True, on=frozenset(F))
    decision = decide(F.LOST, 1, 2, RetryPolicy(irreversible_after="state/sent"), Resources(), 0)
    assert decision is not None
