"""The RADICAL-Pilot backend keeps the contract on a real pilot on this machine, one for all clauses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from ccat_workflow_manager.hpc.radical_pilot.backend import RadicalPilotBackend
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Job
from tests.support.fixtures_radical import Site, litter

pytestmark = pytest.mark.needs("radical")


@dataclass
class RadicalHarness(BackendHarness):
    """The service that reports the states of jobs is a directory."""

    site: Site | None = None

    @contextmanager
    def service_down(self) -> Iterator[None]:
        assert self.site is not None
        aside = self.site.jobs.rename(self.site.jobs.with_suffix(".aside"))
        try:
            yield
        finally:
            aside.rename(self.site.jobs)

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        assert self.site is not None
        file = self.site.jobs / f"{job.id}.job"
        sound = file.read_text()
        file.write_text(sound[: len(sound) // 2])
        try:
            yield
        finally:
            file.write_text(sound)


class TestRadicalPilot(BackendContract):
    not_claimed = frozenset({"ends_are_notified"})
    site: ClassVar[Site]

    @pytest.fixture(autouse=True)
    def _on_site(self, radical_site: Site) -> None:
        type(self).site = radical_site

    def make_harness(self, workdir: Path) -> BackendHarness:
        harness = RadicalHarness(
            create=partial(RadicalPilotBackend, **self.site.config),
            workdir=workdir,
            factory="ccat_workflow_manager.hpc.radical_pilot.backend:RadicalPilotBackend",
            config=self.site.config,
            followed_elsewhere=True,
            site=self.site,
        )
        ordinary = harness.resources
        harness.refused = [
            replace(ordinary, partition="science"),
            replace(ordinary, account="ccat"),
            replace(ordinary, gpu=1),
            replace(ordinary, cpu=9),
            replace(ordinary, memory_gb=10_000_000),
            replace(ordinary, time_hours=13),
        ]
        return harness


def test_home_is_left_alone(radical_site: Site) -> None:
    [home] = radical_site.state_dir.glob("pilots/*/home")
    assert (home / ".psij").is_dir()
    assert litter() == radical_site.litter
