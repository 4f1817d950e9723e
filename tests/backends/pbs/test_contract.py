"""The PBS backend keeps the whole contract on fake programs that really run the jobs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ccat_workflow_manager.hpc.pbs.backend import PbsBackend
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Job
from tests.backends.pbs.fake_pbs import FakePbs


@dataclass
class PbsHarness(BackendHarness):
    """The service of this backend is a directory."""

    pbs: FakePbs | None = None

    def service_down(self) -> AbstractContextManager[None]:
        assert self.pbs is not None
        return self.pbs.switched("down")

    def corrupt_answer(self, job: Job) -> AbstractContextManager[None]:
        assert self.pbs is not None
        return self.pbs.switched("garbage")


def pbs_harness(pbs: FakePbs, workdir: Path) -> PbsHarness:
    config: dict[str, Any] = {"state_dir": str(workdir / "state"), "calls_per_minute": 100_000}
    harness = PbsHarness(
        create=partial(PbsBackend, **config),
        workdir=workdir,
        factory="ccat_workflow_manager.hpc.pbs.backend:PbsBackend",
        config=config,
        pbs=pbs,
    )
    ordinary = harness.resources
    harness.refused = [
        replace(ordinary, partition="no-such-queue"),
        replace(ordinary, partition="two words"),
        replace(ordinary, account="two\nlines"),
        replace(ordinary, extra={"variable_list": "ALL"}),
        replace(ordinary, extra={"chunk": "mpiprocs=1+1:ncpus=64"}),
    ]
    return harness


class TestPbs(BackendContract):
    not_claimed = frozenset({"ends_are_notified"})
    pbs: ClassVar[FakePbs]

    @pytest.fixture(autouse=True)
    def _on_fake(self, fake_pbs: FakePbs) -> None:
        type(self).pbs = fake_pbs

    def make_harness(self, workdir: Path) -> BackendHarness:
        return pbs_harness(self.pbs, workdir)
