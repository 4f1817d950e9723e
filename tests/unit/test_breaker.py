"""The rule of the circuit breaker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.failures import COMMON, FailureReason
from ccat_workflow_manager.lifecycle.breaker import (
    OFF,
    Breaker,
    BreakerPolicy,
    Failure,
    after_failure,
    breaker_key,
    failure_signature,
    held_text,
    program_digest,
    reason_text,
)
from ccat_workflow_manager.lifecycle.retry import NEVER_RETRIED

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
THREE = BreakerPolicy(failures=3, window_seconds=600, probe_seconds=900)


def failure(number: int, signature: str = "program_failed", minute: float = 0) -> Failure:
    return Failure(UUID(int=number), signature, NOON + timedelta(minutes=minute))


def after(*failures: Failure, policy: BreakerPolicy = THREE) -> Breaker:
    breaker = Breaker()
    for each in failures:
        breaker = after_failure(breaker, each, policy)
    return breaker


def test_it_opens_with_the_last_of_enough_equal_failures() -> None:
    assert after(failure(1), failure(2)).opened_at is None
    opened = after(failure(1), failure(2), failure(3, minute=1))
    assert opened.opened_at == NOON + timedelta(minutes=1)
    assert opened.probe_at == NOON + timedelta(minutes=16)
    assert opened.failure_signature == "program_failed"
    assert reason_text(opened, "chai/calibrate", None, THREE) == (
        "3 of the last 3 step runs of chai/calibrate (without an image) failed the same way"
        " (program_failed) within 10 min"
    )


def test_a_step_run_counts_once_with_its_last_failure() -> None:
    assert after(*[failure(1)] * 9, failure(2)).opened_at is None
    assert after(failure(1, "a"), failure(1, "b"), failure(2, "a"), failure(3, "a")).opened_at is None


def test_only_failures_with_one_signature_add_up() -> None:
    assert after(failure(1, "a"), failure(2, "b"), failure(3, "a"), failure(4, "b")).opened_at is None
    opened = after(failure(1, "a"), failure(2, "b"), failure(3, "a"), failure(4, "a"))
    assert (opened.failure_signature, opened.alike, len(opened.failures)) == ("a", 3, 4)


def test_failures_outside_the_window_do_not_count() -> None:
    assert after(failure(1), failure(2, minute=5), failure(3, minute=10.1)).opened_at is None
    assert after(failure(1), failure(2, minute=5), failure(3, minute=10)).opened_at is not None


def test_off_it_never_opens() -> None:
    assert after(*map(failure, range(1000)), policy=OFF).opened_at is None


def test_only_the_failure_of_its_probe_changes_an_open_breaker() -> None:
    opened = after(failure(1), failure(2), failure(3))
    assert after_failure(opened, failure(4, minute=1), THREE) is opened
    probing = Breaker(opened.failures, opened.opened_at, opened.failure_signature, UUID(int=5), opened.probe_at)
    assert after_failure(probing, failure(6, minute=20), THREE) is probing
    again = after_failure(probing, failure(5, minute=20), THREE)
    assert (again.probe, again.probe_at, again.opened_at) == (None, NOON + timedelta(minutes=35), NOON)


def test_without_probes_it_stays_open() -> None:
    assert after(failure(1), policy=BreakerPolicy(failures=1, probe_seconds=0)).probe_at is None


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.floats(0, 30)), max_size=200))
def test_it_opens_exactly_when_enough_step_runs_failed_alike(given: list[tuple[int, str, float]]) -> None:
    ordered = sorted(given, key=lambda each: each[2])
    breaker = Breaker()
    for count, each in enumerate(ordered):
        breaker = after_failure(breaker, failure(*each), THREE)
        last = {number: kind for number, kind, minute in ordered[: count + 1] if minute >= each[2] - 10}
        enough = sum(kind == each[1] for kind in last.values()) >= 3
        if enough:
            assert breaker.opened_at == failure(*each).at
            return
        assert breaker.opened_at is None
        assert len(breaker.failures) <= 15


@pytest.mark.parametrize("reason", list(FailureReason))
def test_reasons_that_count(reason: FailureReason) -> None:
    assert (failure_signature(reason, raised=False) is not None) == (reason in COMMON)
    assert reason not in COMMON & NEVER_RETRIED


def test_the_signature_names_exit_code_and_signal() -> None:
    assert failure_signature(FailureReason.PROGRAM_FAILED, raised=False, exit_code=3) == "program_failed, exit code 3"
    assert failure_signature(FailureReason.KILLED_BY_SIGNAL, raised=False, signal=11) == "killed_by_signal, signal 11"
    assert failure_signature(FailureReason.IMAGE_PULL, raised=False, exit_code=255) == "image_pull"
    # The attempt with more memory or time may succeed.
    assert failure_signature(FailureReason.OUT_OF_MEMORY, raised=True) is None
    assert failure_signature(FailureReason.TIME_LIMIT, raised=True) is None
    assert failure_signature(FailureReason.TIME_LIMIT, raised=False) == "time_limit"


def test_another_image_or_definition_has_another_key() -> None:
    definition = {"name": "calibrate", "command": ["calibrate"]}
    step = program_digest(definition)
    assert program_digest(dict(reversed(definition.items()))) == step
    other = program_digest({**definition, "command": ["calibrate", "-v"]})
    keys = {
        breaker_key("chai", step, "a.sif"), breaker_key("chai", step, "b.sif"), breaker_key("prime", step, "a.sif"),
        breaker_key("chai", step, None), breaker_key("chai", other, "a.sif"),
    }  # fmt: skip
    assert len(keys) == 5


def test_the_text_of_a_held_step_run() -> None:
    text = held_text("it failed", "ID", probing=False, probe_at="2026-01-31T12:00:00Z")
    assert text.startswith("held back: it failed; ")
    assert "after 2026-01-31T12:00:00Z" in text
    assert "`ccat-wm breakers release ID`" in text
    assert "runs now as a probe" in held_text("it failed", "ID", probing=True, probe_at=None)
