"""What tables look like in a narrow terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ccat_workflow_manager.commands import run_tables
from ccat_workflow_manager.commands.output import pairs_text

RUN: dict[str, Any] = {
    "id": "0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c",
    "pipeline": "chai-map-of-a-long-name",
    "status": "COMPLETED",
    "counts": {"COMPLETED": 10_000},
    "created_at": "2026-01-31T12:00:00Z",
    "finished_at": "2026-01-31T12:10:00Z",
    "labels": {"night": "2026-01-31", "observer": "somebody with a long name"},
}


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
