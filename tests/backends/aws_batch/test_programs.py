"""Programs of the flow package at the stand-in, whose jobs see the directory of the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.programs.anywhere import require_executable_tasks, require_no_function_tasks
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.fixtures_aws_batch import aws_batch_config


@pytest.fixture
def config(aws_batch: StandIn, tmp_path: Path) -> dict[str, Any]:
    return aws_batch_config(aws_batch, tmp_path)


def test_tasks(config: dict[str, Any], tmp_path: Path) -> None:
    require_executable_tasks("aws_batch", tmp_path / "work", **config)


def test_functions_are_refused_where_they_are_defined(config: dict[str, Any], tmp_path: Path) -> None:
    require_no_function_tasks("aws_batch", tmp_path, **config)
