"""Pilots that cannot be started, and what is left when a pilot agent is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.radical_pilot.pilot import Pilots
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness
from tests.support import leftovers
from tests.support.fixtures_radical import START_SECONDS, Site, make_site
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

pytestmark = pytest.mark.needs("radical")
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


def test_a_pilot_that_cannot_be_started_costs_no_attempt(reaper: Reaper, opened: Opened) -> None:
    harness = opened(make_site(reaper, resource="local.nowhere"))
    job = harness.submit("true")
    assert harness.backend.get_status(job.id).message == "the pilot is starting"

    def message() -> str:
        info = harness.backend.get_status(job.id)
        assert info.status is JobStatus.PENDING
        return info.message or ""

    wait_until(lambda: "nowhere" in message(), START_SECONDS, "the reason")
    with pytest.raises(BackendUnavailable, match=r"local\.nowhere: .* the next try"):
        harness.submit("true")
    wait_until(lambda: "the next try" in message(), 60, "the wait for the next try")
    harness.backend.cancel(job.id)
    assert harness.backend.get_status(job.id).status is JobStatus.CANCELLED


def test_a_killed_agent_leaves_no_process_and_its_jobs_wait(reaper: Reaper, opened: Opened) -> None:
    site = make_site(reaper)
    harness = opened(site)
    job = harness.submit("true")
    pilots = Pilots(site.state_dir)
    [name] = pilots.states.ids()
    directory = pilots.path(name)
    wait_until(lambda: len(leftovers.processes(directory)) > 8, START_SECONDS, "the processes of a session")
    state = pilots.states.get(name)
    assert state is not None
    assert state.agent is not None
    os.kill(state.agent.pid, signal.SIGKILL)
    wait_until(lambda: not leftovers.processes(directory), 30, "the end of all of them")
    info = harness.backend.get_status(job.id)
    assert info.status is JobStatus.PENDING
    assert "could not be started" in (info.message or "")
    assert [seen.job_id for seen in harness.backend.list_jobs()] == [job.id]
    harness.backend.cancel(job.id)


@pytest.mark.slow
def test_a_job_that_runs_when_its_agent_is_killed_leaves_a_record(reaper: Reaper, opened: Opened) -> None:
    site = make_site(reaper)
    harness = opened(site)
    harness.patience_seconds = START_SECONDS
    job = harness.submit("sleep", "1000")
    harness.until(job, JobStatus.RUNNING)
    pilots = Pilots(site.state_dir)
    [state] = [pilots.states.get(name) for name in pilots.states.ids()]
    assert state is not None
    assert state.agent is not None
    os.kill(state.agent.pid, signal.SIGKILL)
    info = harness.until(job, JobStatus.FAILED)
    assert info.reason is FailureReason.BACKEND_FAILED
