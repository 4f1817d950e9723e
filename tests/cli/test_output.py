"""What tables look like in a narrow terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ccat_workflow_manager.commands import run_tables
from ccat_workflow_manager.commands.output import pairs_text
from ccat_workflow_manager.commands.run_order import Order, in_order

RUN: dict[str, Any] = {
    "id": "0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c",
    "pipeline": "chai-map-of-a-long-name",
    "status": "COMPLETED",
    "counts": {"COMPLETED": 10_000},
    "created_at": "2026-01-31T12:00:00Z",
    "finished_at": "2026-01-31T12:10:00Z",
    "labels": {"night": "2026-01-31", "observer": "somebody with a long name"},
}


def test_a_very_narrow_list_has_the_ends_of_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(run_tables, "console", lambda **_: Console(file=text, width=60))
    run_tables.print_runs([RUN], wide=False)
    line = text.getvalue().splitlines()[2]
    assert line.startswith(f"{RUN['id'][-12:]} ")
    assert "10000/10000" in line


@pytest.mark.parametrize("width", [80, 110, 140])
def test_ids_and_statuses_are_never_broken(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    text = io.StringIO()
    monkeypatch.setattr(run_tables, "console", lambda **_: Console(file=text, width=width))
    run_tables.print_runs([RUN], wide=False)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    [line] = [line for line in lines if RUN["id"] in line]
    assert "COMPLETED" in line
    assert ("took" in lines[0]) == (width > 80)


def test_long_lists_are_shown_by_their_length() -> None:
    assert (
        pairs_text({"scans": list(range(50)), "line": "CO43", "few": [1, 2]}) == "scans=50 items  line=CO43  few=[1, 2]"
    )


def test_values_are_cut_to_a_length_for_people() -> None:
    assert len(pairs_text({"text": "x" * 5000, "map": {str(each): each for each in range(50)}})) < 200


STEP_RUN: dict[str, Any] = {
    "id": "1", "step": "calibrate", "key": "scan_0001", "status": "COMPLETED", "attempt": 1, "max_attempts": 2,
    "wall_time_seconds": 1.0, "cpu_hours": 1.0, "peak_memory_gb": 1.0, "waiting_for": None, "reason_text": None,
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 110, 140])
def test_what_failed_is_shown_first_and_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    text = io.StringIO()
    monkeypatch.setattr(run_tables, "console", lambda **_: Console(file=text, width=width))
    failed = {**STEP_RUN, "status": "FAILED", "key": "scan_0099", "reason_text": "ValueError: no header in it " * 5}
    run_tables.print_step_runs({"step_runs": [{**STEP_RUN, "id": str(number)} for number in range(98)] + [failed]})
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "calibrate/scan_0099" in lines[2]
    assert ("peak memory" in lines[0]) == (width == 140)
    assert capsys.readouterr().err.startswith("98 completed step runs are not shown")


def test_runs_are_sorted() -> None:
    runs = [
        {"id": 1, "status": "RUNNING", "pipeline": "b", "finished_at": None},
        {"id": 2, "status": "FAILED", "pipeline": "a", "finished_at": "2026-01-01T00:00:00Z"},
        {"id": 3, "status": "COMPLETED", "pipeline": "b", "finished_at": "2026-01-02T00:00:00Z"},
    ]
    orders = {Order.FAILED: [2, 1, 3], Order.CREATED: [1, 2, 3], Order.FINISHED: [1, 3, 2]}
    orders |= {Order.PIPELINE: [2, 1, 3], Order.STATUS: [3, 2, 1]}
    for order, wanted in orders.items():
        assert [run["id"] for run in in_order(runs, order)] == wanted


def test_what_fails_alike_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(run_tables, "console", lambda **_: Console(file=text, width=140))
    failed = {**STEP_RUN, "status": "FAILED", "reason_text": "no module"}
    other = {**failed, "key": "other", "reason_text": "no file"}
    run_tables.print_step_runs({"step_runs": [{**failed, "id": str(number)} for number in range(24)] + [other]})
    lines = text.getvalue().splitlines()
    assert len(lines) == 4
    assert "and 23 more" in lines[2]
    assert "no file" in lines[3]
