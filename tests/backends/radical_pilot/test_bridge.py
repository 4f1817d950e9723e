"""Pilots that cannot be had, and what is left when the process that looks after one is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc.radical_pilot import backend as backend_module
from ccat_workflow_manager.hpc.radical_pilot.backend import RadicalPilotBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness
from tests.support import leftovers
from tests.support.fixtures_radical import START_SECONDS, Site, make_site
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(START_SECONDS + 60)
Opened = Callable[[Site], BackendHarness]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """A harness on a site of its own, closed at the end."""
    harnesses = []

    def make(site: Site) -> BackendHarness:
        harnesses.append(site.harness(tmp_path))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.close()


@pytest.mark.needs("radical")
def test_a_pilot_that_cannot_be_had_is_said_and_costs_no_attempt(reaper: Reaper, opened: Opened) -> None:
    harness = opened(make_site(reaper, resource="local.nowhere"))
    job = harness.submit("true")
    assert harness.backend.get_status(job.id).message == "the pilot is starting"

    def message() -> str:
        info = harness.backend.get_status(job.id)
        assert info.status is JobStatus.PENDING
        return info.message or ""

    wait_until(lambda: "nowhere" in message(), START_SECONDS, "the reason")
    with pytest.raises(BackendUnavailable, match=r"could not be started: local\.nowhere: .*; the next try is in"):
        harness.submit("true")
    wait_until(lambda: "the next try" in message(), 60, "the wait for the next try")
    harness.backend.cancel(job.id)
    assert harness.backend.get_status(job.id).status is JobStatus.CANCELLED


@pytest.mark.needs("radical")
def test_nothing_is_left_of_a_killed_bridge_and_its_jobs_go_on_waiting(reaper: Reaper, opened: Opened) -> None:
    site = make_site(reaper)
    harness = opened(site)
    job = harness.submit("true")
    [pilot] = site.pilots.iterdir()
    wait_until(lambda: len(leftovers.processes(pilot)) > 8, START_SECONDS, "the processes of a session")
    os.kill(json.loads((pilot / "bridge.json").read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: not leftovers.processes(pilot), 30, "the end of all of them")
    info = harness.backend.get_status(job.id)
    assert info.status is JobStatus.PENDING
    assert "could not be started" in (info.message or "")
    assert [seen.job_id for seen in harness.backend.list_jobs()] == [job.id]
    harness.backend.cancel(job.id)


def test_a_directory_that_a_shell_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="RADICAL_PILOT_STATE_DIR"):
        RadicalPilotBackend(state_dir=tmp_path / "two words")
    with pytest.raises(ConfigurationError, match="RADICAL_PILOT_RESOURCE"):
        RadicalPilotBackend(state_dir=tmp_path / "state", resource="frontier")


def test_without_the_package_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleSpec | None:
        raise ModuleNotFoundError(name)

    for find in (missing, lambda name: None):
        monkeypatch.setattr(backend_module, "find_spec", find)
        found = RadicalPilotBackend.is_available()
        assert not found.available
        assert found.installation_hint == "pip install 'ccat-workflow-manager[radical_pilot]'"
