"""A harness at the stand-in, for tests that look closer than the contract does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.aws_batch.test_contract import AwsBatchHarness, aws_batch_harness
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.fixtures_aws_batch import mend


@pytest.fixture
def jobs(aws_batch: StandIn, tmp_path: Path) -> Iterator[AwsBatchHarness]:
    harness = aws_batch_harness(aws_batch, tmp_path)
    yield harness
    mend(aws_batch)
    harness.close()
