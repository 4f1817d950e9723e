"""Programs of the flow package on a stand-in cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.programs.anywhere import require_executable_tasks, require_no_function_tasks
from tests.stand_ins.kubernetes import ApiServer


@pytest.fixture
def config(cluster: ApiServer, tmp_path: Path) -> dict[str, Any]:
    return {
        "pipeline_base_dir": str(tmp_path), "namespace": "default", "launcher_image": "launcher:1", "poll_seconds": 0.2,
        "margin_seconds": 60, "kill_grace_seconds": 1,
    }  # fmt: skip


def test_tasks(config: dict[str, Any], tmp_path: Path) -> None:
    require_executable_tasks("kubernetes", tmp_path / "work", **config)


def test_functions_are_refused_where_they_are_defined(config: dict[str, Any], tmp_path: Path) -> None:
    require_no_function_tasks("kubernetes", tmp_path, **config)
