"""The AWS Batch backend keeps the whole contract at a stand-in that really runs the jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from ccat_workflow_manager.hpc.aws_batch.backend import AwsBatchBackend
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Job
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.fixtures_aws_batch import aws_batch_config, mend

LOOKING = ("DescribeJobs", "ListJobs")


@dataclass
class AwsBatchHarness(BackendHarness):
    """The service of this backend is a server on loopback."""

    stand_in: StandIn | None = None

    @contextmanager
    def service_down(self) -> Iterator[None]:
        assert self.stand_in is not None
        self.stand_in.faults.down = True
        yield
        mend(self.stand_in)

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        assert self.stand_in is not None
        self.stand_in.faults.garbage = True
        yield
        mend(self.stand_in)

    @contextmanager
    def count_status_calls(self) -> Iterator[Callable[[], int]]:
        assert self.stand_in is not None
        calls = self.stand_in.calls
        before = sum(calls[each] for each in LOOKING)
        yield lambda: sum(calls[each] for each in LOOKING) - before


def aws_batch_harness(stand_in: StandIn, workdir: Path) -> AwsBatchHarness:
    config = aws_batch_config(stand_in, workdir)
    harness = AwsBatchHarness(
        create=partial(AwsBatchBackend, **config),
        workdir=workdir,
        factory="ccat_workflow_manager.hpc.aws_batch.backend:AwsBatchBackend",
        config=config,
        shortest_time_hours=1 / 60,
        stand_in=stand_in,
    )
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


class TestAwsBatch(BackendContract):
    not_claimed = frozenset({"ends_are_notified"})
    stand_in: ClassVar[StandIn]

    @pytest.fixture(autouse=True)
    def _at_stand_in(self, aws_batch: StandIn) -> None:
        type(self).stand_in = aws_batch

    def make_harness(self, workdir: Path) -> BackendHarness:
        return aws_batch_harness(self.stand_in, workdir)
