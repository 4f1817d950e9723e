"""The benches themselves work. What they measure here means nothing: the numbers are tiny and the machine is busy."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.bench.__main__ import BENCHES, CONTAINERS, measure
from tests.bench.figures import show
from tests.bench.sizes import QUICK


@pytest.mark.needs("postgresql", "valkey")
def test_every_bench_gives_figures(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure(list(BENCHES), QUICK)
    assert len(figures) >= len(BENCHES)
    assert all(figure.value >= 0 for figure in figures)
    show(Console(width=200), "quick", figures)
    printed = capsys.readouterr().out
    for figure in figures:
        assert figure.what in printed


@pytest.mark.needs("postgresql", "valkey", "apptainer")
def test_containers_are_measured() -> None:
    [figure] = measure([CONTAINERS], QUICK)
    assert figure.value > 0
    assert figure.reference
