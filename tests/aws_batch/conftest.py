"""A harness at the stand-in, for tests that look closer than the contract does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager.testing.aws_batch_stand_in.server import StandIn
from tests.contract.test_aws_batch import AwsBatchHarness, aws_batch_harness
from tests.fixtures_aws_batch import mend


@pytest.fixture
def jobs(aws_batch: StandIn, tmp_path: Path) -> Iterator[AwsBatchHarness]:
    harness = aws_batch_harness(aws_batch, tmp_path)
    yield harness
    mend(aws_batch)
    harness.close()
