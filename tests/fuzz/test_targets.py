"""A slice of `make fuzz` with a fixed seed, and every text that it has ever found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.targets import CASES, TARGETS, samples, texts

KEPT = sorted(CASES.glob("*/*.txt"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_broken_text_is_refused_in_order(name: str) -> None:
    @seed(1)
    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(texts(samples(name)))
    def check(text: str) -> None:
        TARGETS[name].check(text)

    check()


@pytest.mark.parametrize("path", KEPT, ids=[f"{path.parent.name}-{path.stem}" for path in KEPT])
def test_a_text_that_was_found(path: Path) -> None:
    TARGETS[path.parent.name].check(path.read_bytes().decode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_sample_is_accepted(name: str) -> None:
    assert [TARGETS[name].parse(sample) for sample in samples(name)]
