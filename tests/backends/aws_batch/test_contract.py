"""The AWS Batch backend keeps the whole contract at a stand-in that really runs the jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from tests.backends.aws_batch.harness import aws_batch_harness
from tests.stand_ins.aws_batch.server import StandIn


class TestAwsBatch(BackendContract):
    not_claimed = frozenset({"ends_are_notified"})
    stand_in: ClassVar[StandIn]

    @pytest.fixture(autouse=True)
    def _at_stand_in(self, aws_batch: StandIn) -> None:
        type(self).stand_in = aws_batch

    def make_harness(self, workdir: Path) -> BackendHarness:
        harness = aws_batch_harness(self.stand_in, workdir)
        ordinary = harness.resources
        harness.refused = [
            replace(ordinary, partition="no-such-queue"),
            replace(ordinary, partition="two words"),
            replace(ordinary, account="two\nlines"),
            replace(ordinary, extra={"scheduling_priority": 10_000}),
            replace(ordinary, extra={"scheduling_priority": 5}),
            replace(ordinary, extra={"privileged": True}),
        ]
        return harness
