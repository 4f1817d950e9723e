"""What the bridge decides, with a session that only takes notes."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ccat_workflow_manager.hpc.radical_pilot import pilot_agent, pilot_dir
from ccat_workflow_manager.hpc.radical_pilot.options import PilotOptions
from ccat_workflow_manager.hpc.radical_pilot.pilot_agent import PilotAgent
from ccat_workflow_manager.hpc.radical_pilot.pilot_dir import PilotDir
from ccat_workflow_manager.hpc.radical_pilot.rp_session import PilotNews, Shape, TaskNews
from ccat_workflow_manager.hpc.radical_pilot.start_script import NOT_MINE
from ccat_workflow_manager.hpc.radical_pilot.store import JobStore, Ticket, claim_for_nobody, stopped_of
from tests.support.waiting import wait_until

ACTIVE = PilotNews("PMGR_ACTIVE", final=False, active=True, text="")
FAILED = PilotNews("FAILED", final=True, active=False, text="no such queue")


@dataclass
class Notes:
    """A session that runs nothing."""

    submitted: list[str] = field(default_factory=list)
    closed: bool = False

    def open(self) -> Shape:
        return Shape(8, 0, 1000)

    def submit(self, tickets: Sequence[Ticket], store: JobStore) -> list[str]:
        self.submitted += [ticket.job_id for ticket in tickets]
        return [f"task-{ticket.job_id}" for ticket in tickets]

    def close(self) -> None:
        self.closed = True


@dataclass
class Scene:
    store: JobStore
    pilot: PilotDir
    notes: Notes
    news: queue.SimpleQueue[Any]
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, options: PilotOptions) -> None:
        taking = PilotAgent(self.store, self.pilot, options, self.news)
        self.threads.append(threading.Thread(target=taking.run, daemon=True))
        self.threads[0].start()

    def job(self, name: str, *, seconds: int = 60, priority: int = 0) -> Ticket:
        workspace = self.pilot.path / name / "workspace"
        workspace.mkdir(parents=True)
        ticket = Ticket(name, str(workspace), 1, 0, 10, seconds, priority, 0.0, self.pilot.path.name)
        self.news.put(pilot_agent._JobNews(ticket))
        return ticket

    def task(self, name: str, exit_code: int | None, text: str = "") -> None:
        self.news.put(TaskNews(f"task-{name}", "FAILED", final=True, exit_code=exit_code, text=text))

    def ended(self) -> None:
        wait_until(lambda: not self.threads[0].is_alive(), 30, "the end of the pilot")
        assert self.notes.closed


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    notes = Notes()
    session: Callable[..., Notes] = lambda *_: notes  # noqa: E731
    monkeypatch.setattr(pilot_agent, "RadicalSession", session)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading, "Timer", Mock())
    store = JobStore(tmp_path / "jobs")
    store.prepare()
    pilot = PilotDir(tmp_path / "pilots" / "pilot-1")
    pilot.path.mkdir(parents=True)
    scene = Scene(store, pilot, notes, queue.SimpleQueue())
    yield scene
    scene.news.put(pilot_agent._EndNews("the test is over"))
    for thread in scene.threads:
        thread.join(30)


def test_jobs_wait_for_the_pilot_and_the_urgent_go_first(scene: Scene) -> None:
    scene.job("idle", priority=-1)
    scene.job("plain")
    scene.job("urgent", priority=9)
    cancelled = scene.job("cancelled")
    assert claim_for_nobody(cancelled)
    scene.begin(PilotOptions())
    wait_until(lambda: scene.pilot.note().pending == 4, 10, "the jobs")
    assert (scene.pilot.note().state, scene.pilot.note().text) == (pilot_dir.STARTING, "the pilot is starting")
    assert scene.notes.submitted == []
    scene.news.put(ACTIVE)
    wait_until(lambda: scene.pilot.note().state == pilot_dir.ACTIVE, 10, "the pilot")
    wait_until(lambda: scene.notes.submitted == ["urgent", "plain", "idle"], 10, "the jobs in order")


def test_what_does_not_fit_into_the_time_that_is_left_is_for_the_next_pilot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_agent, "_FRESH_SHARE", -1)
    scene.begin(PilotOptions(walltime_minutes=10))
    scene.news.put(ACTIVE)
    scene.job("short", seconds=60)
    scene.job("long", seconds=600)
    wait_until(lambda: scene.notes.submitted == ["short"], 10, "the short one")
    wait_until(lambda: scene.pilot.note().state == pilot_dir.ACTIVE, 10, "the note")
    scene.task("short", 0)
    scene.ended()
    assert scene.notes.submitted == ["short"]
    assert "does not fit" in scene.pilot.note().text


def test_a_pilot_with_nothing_to_do_ends(scene: Scene) -> None:
    scene.begin(PilotOptions(idle_minutes=0.001))
    scene.news.put(ACTIVE)
    scene.ended()
    assert (scene.pilot.note().state, "nothing to do" in scene.pilot.note().text) == (pilot_dir.ENDED, True)


def test_a_pilot_that_nobody_waits_for_any_more_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot_agent, "_PRUNE_SECONDS", 0)
    ticket = scene.job("late")
    scene.begin(PilotOptions(idle_minutes=0.001))
    wait_until(lambda: scene.pilot.note().pending == 1, 10, "the job")
    assert claim_for_nobody(ticket)
    scene.ended()
    assert (scene.notes.submitted, scene.pilot.note().state) == ([], pilot_dir.ENDED)


def test_a_pilot_that_is_refused_says_why(scene: Scene) -> None:
    scene.begin(PilotOptions(resource="site.machine"))
    wait_until(lambda: "queue of site.machine" in scene.pilot.note().text, 10, "the wait in the queue")
    scene.news.put(FAILED)
    scene.ended()
    assert scene.pilot.note().state == pilot_dir.FAILED
    assert "no such queue" in scene.pilot.note().text


def test_ends_that_only_radical_pilot_knows_are_written_down(scene: Scene) -> None:
    scene.begin(PilotOptions())
    scene.news.put(ACTIVE)
    names = ["refused", "killed", "foreign"]
    tickets = {name: scene.job(name) for name in names}
    wait_until(lambda: scene.notes.submitted == names, 10, "the jobs")
    Path(tickets["killed"].base + ".claim").write_text("pilot-1 node\n")
    scene.task("refused", None, "too many threads per proc")
    scene.task("killed", -9)
    scene.task("foreign", NOT_MINE)
    wait_until(lambda: scene.store.end("killed"), 10, "the ends")
    refused = scene.store.end("refused")
    killed = scene.store.end("killed")
    assert refused is not None
    assert (refused.refused, "too many threads" in refused.text) == (True, True)
    assert killed is not None
    assert not killed.refused
    assert scene.store.end("foreign") is None


def test_what_runs_when_the_worker_ends_is_stopped(scene: Scene) -> None:
    scene.begin(PilotOptions(kill_grace_seconds=0))
    scene.news.put(ACTIVE)
    running, waiting = scene.job("running"), scene.job("waiting")
    wait_until(lambda: len(scene.notes.submitted) == 2, 10, "the jobs")
    Path(running.base + ".claim").write_text("pilot-1 node\n")
    scene.news.put(pilot_agent._EndNews("the worker has ended"))
    wait_until(Path(running.base + ".stop").exists, 10, "the wish")
    assert Path(running.base + ".stop").read_text() == "pilot\n"
    Path(running.base + ".stopped").write_text("pilot\nover\n")
    scene.ended()
    assert stopped_of(running) == ("pilot", True)
    assert not Path(waiting.base + ".stop").exists()
