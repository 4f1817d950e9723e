"""Durations that are counted by class: quantiles are right to within a class."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.lifecycle.durations import LAST_CLASS, NO_DURATION, bounds, quantile


def class_of(seconds: float) -> int:
    return next((number for number in range(LAST_CLASS) if seconds < bounds(number)[1]), LAST_CLASS)


@given(st.lists(st.floats(0.1, 1_000_000), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_within_the_class_of_the_exact_one(durations: list[float], part: float) -> None:
    found = quantile(Counter(map(class_of, durations)), part)
    rank = next(n for n in range(1, len(durations) + 1) if n >= part * len(durations))
    exact = sorted(durations)[rank - 1]
    low, high = bounds(class_of(exact))
    assert found is not None
    assert low <= found <= high * 1.000001


def test_what_has_no_duration_does_not_count() -> None:
    assert quantile({NO_DURATION: 5}, 0.5) is None
    assert quantile({NO_DURATION: 5, 0: 1}, 1) == pytest.approx(0.1)
