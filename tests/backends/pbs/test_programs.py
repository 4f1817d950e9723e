"""Programs of the flow package on fake programs of PBS that really run the jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.programs.anywhere import require_executable_tasks, require_no_function_tasks


@pytest.fixture
def config(fake_pbs: object, tmp_path: Path) -> dict[str, Any]:
    return {"state_dir": str(tmp_path / "state"), "calls_per_minute": 100_000}


def test_tasks(config: dict[str, Any], tmp_path: Path) -> None:
    require_executable_tasks("pbs", tmp_path / "work", **config)


def test_functions_are_refused_where_they_are_defined(config: dict[str, Any], tmp_path: Path) -> None:
    require_no_function_tasks("pbs", tmp_path, **config)
