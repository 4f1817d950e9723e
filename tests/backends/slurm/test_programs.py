"""Programs of the flow package on a real cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.backends.slurm.cluster import Cluster
from tests.programs.anywhere import require_executable_tasks, require_no_function_tasks

pytestmark = pytest.mark.needs("slurm")


@pytest.fixture
def config(slurm_cluster: Cluster, tmp_path: Path) -> dict[str, Any]:
    return {"conf": str(slurm_cluster.conf), "state_dir": str(tmp_path / "state"), "calls_per_minute": 2000}


def test_tasks(config: dict[str, Any], tmp_path: Path) -> None:
    require_executable_tasks("slurm", tmp_path / "work", **config)


def test_functions_are_refused_where_they_are_defined(config: dict[str, Any], tmp_path: Path) -> None:
    require_no_function_tasks("slurm", tmp_path, **config)
