"""One pilot of RADICAL-Pilot on this machine for a file of tests: its start takes half a minute."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.hpc.radical_pilot.backend import RadicalPilotBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness
from tests.support.reaper import Reaper

START_SECONDS = 600
"""On a machine that does much else; alone it takes 20."""


@dataclass(frozen=True, slots=True)
class Site:
    """A directory with a pilot that stays while this process holds a backend of this configuration."""

    directory: Path
    config: dict[str, Any]
    litter: frozenset[str] = frozenset()
    """What of RADICAL-Pilot's was in the user's home before."""

    @property
    def state_dir(self) -> Path:
        return Path(self.config["state_dir"])

    @property
    def jobs(self) -> Path:
        return self.state_dir / "jobs"

    def harness(self, workdir: Path) -> BackendHarness:
        return BackendHarness(create=partial(RadicalPilotBackend, **self.config), workdir=workdir)


def litter() -> frozenset[str]:
    """What RADICAL-Pilot leaves in a home, as far as it is in the user's."""
    return frozenset(name for name in ("radical.pilot.sandbox", ".radical", ".psij") if (Path.home() / name).exists())


def make_site(reaper: Reaper, **config: Any) -> Site:
    directory = Path(tempfile.mkdtemp(prefix="ccat-wm-radical-"))
    reaper.remove(directory)
    state_dir = str(directory / "state")
    standard = {"state_dir": state_dir, "trusted_network": True, "cores": 8, "kill_grace_seconds": 1}
    return Site(directory, {**standard, **config}, litter())


@pytest.fixture(scope="module")
def radical_site(reaper: Reaper) -> Iterator[Site]:
    """A pilot that is up. Even an idle one keeps half a core busy, so it is not kept for longer than it is needed."""
    site = make_site(reaper)
    keeping = site.harness(site.directory / "work")
    keeping.patience_seconds = START_SECONDS
    try:
        keeping.until(keeping.submit("true"), JobStatus.COMPLETED)
        yield site
    finally:
        keeping.close()
        shutil.rmtree(site.directory, ignore_errors=True)
