"""Harnesses at the stand-in, for tests that look closer than the contract does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.backends.aws_batch.harness import AwsBatchHarness, aws_batch_harness
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.fixtures_aws_batch import mend

JobsWith: TypeAlias = Callable[..., AwsBatchHarness]


@pytest.fixture
def jobs_with(aws_batch: StandIn, tmp_path: Path) -> Iterator[JobsWith]:
    """Makes harnesses with other settings, which share their state as processes of one deployment do."""
    numbers = count()
    with ExitStack() as stack:

        def make(**settings: Any) -> AwsBatchHarness:
            shared = {"volumes": str(tmp_path), "state_dir": str(tmp_path / "state")}
            harness = aws_batch_harness(aws_batch, tmp_path / f"work-{next(numbers)}", **{**shared, **settings})
            stack.callback(harness.close)
            return harness

        yield make
        mend(aws_batch)


@pytest.fixture
def jobs(jobs_with: JobsWith) -> AwsBatchHarness:
    return jobs_with()
