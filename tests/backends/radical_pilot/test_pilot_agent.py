"""What the pilot agent decides, with a session that runs nothing."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import Mock

import pytest

from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.radical_pilot import pilot_agent
from ccat_workflow_manager.hpc.radical_pilot.job import JobStore, PilotJob
from ccat_workflow_manager.hpc.radical_pilot.pilot import ACTIVE, FAILED, OVER, STARTING, Pilots, PilotState
from ccat_workflow_manager.hpc.radical_pilot.pilot_agent import EndRequest, Event, PilotAgent
from ccat_workflow_manager.hpc.radical_pilot.rp_session import NodeShape, PilotChange, TaskChange
from ccat_workflow_manager.hpc.radical_pilot.settings import RadicalPilotSettings
from tests.support.waiting import PATIENCE, wait_until

PILOT = "pilot-1"
IS_ACTIVE = PilotChange("PMGR_ACTIVE", final=False, active=True, text="")
HAS_FAILED = PilotChange("FAILED", final=True, active=False, text="no such queue")


@dataclass
class FakeSession:
    """Submits to nothing."""

    submitted: list[str] = field(default_factory=list)
    closed: bool = False

    def open(self) -> NodeShape:
        return NodeShape(8, 1000)

    def submit(self, jobs: Sequence[tuple[PilotJob, str]], program: Path) -> list[str]:
        self.submitted += [job.job_id for job, _ in jobs]
        return [f"task-{job.job_id}" for job, _ in jobs]

    def close(self) -> None:
        self.closed = True


@dataclass
class Scene:
    root: Path
    store: JobStore
    pilots: Pilots
    session: FakeSession
    events: queue.SimpleQueue[Event]
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, settings: RadicalPilotSettings) -> None:
        agent = PilotAgent(self.root, PILOT, settings, self.events)
        self.threads.append(threading.Thread(target=agent.run, daemon=True))
        self.threads[0].start()

    def job(self, name: str, *, seconds: int = 60, priority: int = 0, grace: float = 0) -> PilotJob:
        workspace = self.root / name / "workspace"
        workspace.mkdir(parents=True)
        limits = Limits(time_seconds=seconds, kill_grace_seconds=grace)
        job = PilotJob(name, str(workspace), 1, 0, limits, priority, 0.0, PILOT)
        self.events.put(job)
        return job

    def task(self, name: str, exit_code: int | None, text: str = "") -> None:
        self.events.put(TaskChange(f"task-{name}", "FAILED", final=True, exit_code=exit_code, text=text))

    @property
    def state(self) -> PilotState:
        return self.pilots.states.get(PILOT) or PilotState()

    @property
    def beat(self) -> str:
        return (self.pilots.path(PILOT) / "alive").read_text().strip()

    def ended(self) -> None:
        wait_until(lambda: not self.threads[0].is_alive(), 30, "the end of the pilot")
        assert self.session.closed
        assert self.beat == "ended"


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    fake = FakeSession()
    session: Callable[..., FakeSession] = lambda *_: fake  # noqa: E731
    monkeypatch.setattr(pilot_agent, "RadicalSession", session)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading, "Timer", Mock())
    pilots = Pilots(tmp_path)
    pilots.create(PILOT)
    scene = Scene(tmp_path, JobStore(tmp_path), pilots, fake, queue.SimpleQueue())
    yield scene
    scene.events.put(EndRequest("the test is over"))
    for thread in scene.threads:
        thread.join(PATIENCE)


def test_jobs_wait_for_the_pilot_and_the_urgent_go_first(scene: Scene) -> None:
    scene.job("idle", priority=-1)
    scene.job("plain")
    scene.job("urgent", priority=9)
    assert claims.block(scene.job("cancelled").files, "cancelled")
    scene.begin(RadicalPilotSettings())
    wait_until(lambda: scene.state.pending == 4, 10, "the jobs")
    assert scene.state.state == STARTING
    assert scene.session.submitted == []
    scene.events.put(IS_ACTIVE)
    wait_until(lambda: scene.state.state == ACTIVE, 10, "the pilot")
    wait_until(lambda: scene.session.submitted == ["urgent", "plain", "idle"], 10, "the jobs in order")


def test_a_job_that_needs_more_time_than_is_left_is_for_the_next_pilot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_agent, "FRESH_SHARE", -1)
    scene.begin(RadicalPilotSettings(walltime_minutes=10))
    scene.events.put(IS_ACTIVE)
    scene.job("short", seconds=60)
    scene.job("long", seconds=600)
    wait_until(lambda: scene.session.submitted == ["short"], 10, "the short one")
    scene.task("short", 0)
    scene.ended()
    assert scene.session.submitted == ["short"]
    assert "does not fit" in scene.state.text


def test_a_pilot_with_nothing_to_do_ends(scene: Scene) -> None:
    scene.begin(RadicalPilotSettings(idle_minutes=0.001))
    scene.events.put(IS_ACTIVE)
    scene.ended()
    assert (scene.state.state, "nothing to do" in scene.state.text) == (OVER, True)


def test_a_pilot_whose_jobs_were_all_cancelled_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot_agent, "PRUNE_SECONDS", 0)
    job = scene.job("late")
    scene.begin(RadicalPilotSettings(idle_minutes=0.001))
    wait_until(lambda: scene.state.pending == 1, 10, "the job")
    assert claims.block(job.files, "cancelled")
    scene.ended()
    assert (scene.session.submitted, scene.state.state) == ([], OVER)


def test_a_pilot_that_is_refused_shows_why(scene: Scene) -> None:
    scene.begin(RadicalPilotSettings(resource="site.machine"))
    wait_until(lambda: "queue of site.machine" in scene.state.text, 10, "the wait in the queue")
    scene.events.put(HAS_FAILED)
    scene.ended()
    assert scene.state.state == FAILED
    assert "no such queue" in scene.state.text


def test_ends_without_a_record_are_recorded(scene: Scene) -> None:
    scene.begin(RadicalPilotSettings())
    scene.events.put(IS_ACTIVE)
    names = ["refused", "killed", "foreign"]
    jobs = {name: scene.job(name) for name in names}
    wait_until(lambda: scene.session.submitted == names, 10, "the jobs")
    claims.take(jobs["killed"].files, "another pilot")
    scene.task("refused", None, "too many threads per proc")
    scene.task("killed", -9)
    scene.task("foreign", NOT_STARTED)
    wait_until(lambda: scene.store.ends.get("killed"), 10, "the ends")
    refused, killed = scene.store.ends.get("refused"), scene.store.ends.get("killed")
    assert refused is not None
    assert killed is not None
    assert (refused.refused, "too many threads" in refused.text, killed.refused) == (True, True, False)
    assert scene.store.ends.get("foreign") is None


def test_jobs_are_stopped_before_the_pilot_when_the_worker_ends(scene: Scene) -> None:
    scene.begin(RadicalPilotSettings())
    scene.events.put(IS_ACTIVE)
    running = scene.job("running", grace=20)
    wait_until(lambda: scene.session.submitted == ["running"], 10, "the job")
    claims.take(running.files, PILOT)
    scene.events.put(EndRequest("the worker has ended"))
    wait_until(lambda: scene.beat == "ended", 10, "the stop")
    assert not scene.session.closed
    Path(running.files.record).write_text(ExitRecord("running", None, stopped_by="carrier_lost").to_json())
    scene.ended()
