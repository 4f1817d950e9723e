"""The benches themselves work. What they measure here means nothing: the numbers are tiny and the machine is busy."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.bench.__main__ import BACKENDS, BENCHES, CONTAINERS, PROGRAMS, SLURM, measure
from tests.bench.figures import show
from tests.bench.sizes import QUICK
from tests.flow.sites import SITES


@pytest.mark.needs("postgresql", "valkey")
@pytest.mark.slow
def test_every_bench_gives_figures(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure(list(BENCHES), QUICK)
    assert len(figures) >= len(BENCHES)
    assert all(figure.value >= 0 for figure in figures)
    show(Console(width=200), "quick", figures)
    printed = capsys.readouterr().out
    for figure in figures:
        assert figure.what in printed


@pytest.mark.slow
@pytest.mark.needs("postgresql", "valkey", "apptainer")
def test_containers_are_measured() -> None:
    [figure] = measure([CONTAINERS], QUICK)
    assert figure.value > 0
    assert figure.reference


def test_programs_are_measured() -> None:
    figures = measure([PROGRAMS], QUICK)
    assert len(figures) == 3
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.slow
@pytest.mark.needs("postgresql", "valkey", "slurm")
def test_slurm_is_measured() -> None:
    figures = measure([SLURM], QUICK)
    assert len(figures) == 5
    assert all(figure.value > 0 and figure.reference for figure in figures)


@pytest.mark.slow
@pytest.mark.needs("slurm", "radical")
def test_every_backend_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure([BACKENDS], QUICK)
    assert "left out" not in capsys.readouterr().out
    for backend in (*SITES, "noop"):
        assert [figure for figure in figures if figure.what.startswith(f"{backend}:")], backend
