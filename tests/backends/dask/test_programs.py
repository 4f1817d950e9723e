"""Programs of the flow package at the scheduler of a site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.backends.dask.cluster import DaskCluster
from tests.programs.anywhere import require_executable_tasks, require_function_tasks


@pytest.fixture
def config(standing_dask_cluster: DaskCluster, tmp_path: Path) -> dict[str, Any]:
    return {"scheduler_address": standing_dask_cluster.address, "state_dir": str(tmp_path / "state")}


def test_tasks(config: dict[str, Any], tmp_path: Path) -> None:
    require_executable_tasks("dask", tmp_path / "work", **config)


def test_functions(config: dict[str, Any], tmp_path: Path) -> None:
    require_function_tasks("dask", tmp_path / "work", **config)
