"""The pilot agent: gives jobs to one pilot while it has time for them, and records tasks that left no exit record."""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED, Claim
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess
from ccat_workflow_manager.hpc.radical_pilot.job import JobStore, PilotJob, TaskEnd
from ccat_workflow_manager.hpc.radical_pilot.pilot import (
    ACTIVE,
    BEAT_SECONDS,
    FAILED,
    OVER,
    Pilots,
    PilotState,
)
from ccat_workflow_manager.hpc.radical_pilot.rp_session import PilotChange, RadicalSession, TaskChange
from ccat_workflow_manager.hpc.radical_pilot.settings import RadicalPilotSettings

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
PRUNE_SECONDS = 10.0
"""How often jobs are dropped that were cancelled while the pilot waited in a queue."""
_OPEN_SECONDS = 300.0
_CLOSE_SECONDS = 20.0
_CLOSE_LOCAL_SECONDS = 4.0
"""On this machine there is no batch system to notify, and `sweep.py` kills what does not end."""
_SHORT_SECONDS = 3.0
"""How long jobs may take to end beyond their grace, and a beat to be written."""
FRESH_SHARE = 0.1
"""A pilot that has used less of its time than this takes every job that fits into the whole of it."""
_OPEN_FAULTS = (RuntimeError, ValueError, LookupError, OSError, TypeError, AttributeError, AssertionError, ImportError)
"""What RADICAL-Pilot raises when a label, a scheduler or an installation is not what it should be."""


@dataclass(frozen=True, slots=True)
class EndRequest:
    """The pilot is to end."""

    why: str


Event = PilotChange | TaskChange | PilotJob | EndRequest


def run(root: str, name: str, settings: str) -> int:
    """Manage one pilot from its start to its end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _start_sweeper()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(events,), daemon=True).start()
    code = 1
    try:
        agent = PilotAgent(Path(root), name, RadicalPilotSettings.model_validate_json(settings), events)
        agent.run()
        code = 0
    except BaseException:
        logger.exception("the pilot agent failed")
        raise
    finally:
        # Threads of RADICAL-Pilot that do not end would keep this process for ever.
        os._exit(code)


class PilotAgent:
    """One pilot and its jobs."""

    def __init__(self, root: Path, name: str, settings: RadicalPilotSettings, events: queue.SimpleQueue[Event]) -> None:
        self._store = JobStore(root)
        self._pilots = Pilots(root)
        self._name = name
        self._settings = settings
        self._events = events
        self._session = RadicalSession(settings, self._pilots.path(name), events.put)
        self._state = PilotState(HostProcess.of(os.getpid()), resource=settings.resource)
        self._recorded: PilotState | None = None
        self._waiting: dict[str, PilotJob] = {}
        self._submitted: dict[str, PilotJob] = {}
        """By the uid of the task."""
        self._running: set[str] = set()
        self._ends: dict[str, TaskEnd] = {}
        self._active_at: float | None = None
        self._busy_at = self._pruned_at = time.monotonic()
        self._end: EndRequest | None = None
        self._ending = threading.Event()

    def run(self) -> None:
        beats = threading.Thread(target=self._beat, daemon=True)
        beats.start()
        try:
            self._open()
            while self._end is None:
                self._take_events()
                self._submit()
                self._record_ends()
                self._look_at_the_clock()
                self._record_state()
        finally:
            self._ending.set()
            beats.join(_SHORT_SECONDS)
            self._finish()

    def _beat(self) -> None:
        number = 0
        while not self._ending.wait(BEAT_SECONDS if number else 0):
            number += 1
            try:
                self._pilots.beat(self._name, str(number))
            except OSError as error:
                logger.warning("no beat was written: %s", error)

    # --- the pilot ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._record_state()
        timer = threading.Timer(_OPEN_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            shape = self._session.open()
        except _OPEN_FAULTS as error:
            logger.exception("the pilot cannot be submitted")
            self._fail(f"{self._settings.resource}: {error}")
            return
        finally:
            timer.cancel()
        # RADICAL-Pilot has set handlers of its own.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self._events.put(EndRequest(f"signal {number} ended it")))
        self._state = replace(
            self._state,
            cores_per_node=shape.cores,
            memory_mb_per_node=shape.memory_mb,
            cores=self._settings.pilot_size.get("cores") or self._settings.nodes * shape.cores,
        )
        if not self._settings.local:
            self._state = replace(self._state, text=f"the pilot waits in the queue of {self._settings.resource}")

    def _give_up(self) -> None:
        """End this process: RADICAL-Pilot waits for ever for programs of its own that did not start."""
        self._fail(f"RADICAL-Pilot did not come up within {_OPEN_SECONDS:g} s; see {self._pilots.path(self._name)}")
        self._record_state()
        os._exit(1)

    def _fail(self, text: str) -> None:
        self._state = replace(self._state, state=FAILED, text=text)
        self._end = EndRequest(text)

    def _on_pilot(self, change: PilotChange) -> None:
        logger.info("the pilot is %s %s", change.state, change.text)
        if change.active and self._active_at is None:
            self._active_at = self._busy_at = time.monotonic()
            until = time.time() + self._settings.walltime_minutes * 60
            self._state = replace(self._state, state=ACTIVE, text="all slots of the pilot are in use", until=until)
        if change.final and self._end is None:
            if self._active_at is None:
                self._fail(f"it ended as {change.state} before it was active {change.text}".strip())
            else:
                self._end = EndRequest(f"the pilot ended as {change.state}")

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if self._active_at is None and now - self._pruned_at > PRUNE_SECONDS:
            self._pruned_at = now
            self._waiting = {job_id: job for job_id, job in self._waiting.items() if _claim(job) is None}
        if self._waiting or self._submitted:
            self._busy_at = now
        elif now - self._busy_at > self._settings.idle_minutes * 60:
            self._end = EndRequest(f"the pilot had nothing to do for {self._settings.idle_minutes:g} minutes")
        if self._waiting and not self._submitted and self._active_at is not None and not self._fitting():
            self._end = EndRequest("what waits does not fit into the rest of the pilot's time")

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _take_events(self) -> None:
        try:
            event = self._events.get(timeout=_TICK_SECONDS)
            while True:
                self._take(event)
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _take(self, event: Event) -> None:
        match event:
            case PilotJob():
                self._waiting[event.job_id] = event
            case PilotChange():
                self._on_pilot(event)
            case TaskChange():
                self._on_task(event)
            case EndRequest():
                logger.info("to end: %s", event.why)
                self._end = event

    def _fitting(self) -> list[PilotJob]:
        """The jobs that the pilot has time for, the most urgent first."""
        if self._active_at is None:
            return []
        whole = self._settings.walltime_minutes * 60
        used = time.monotonic() - self._active_at
        left = whole if used < whole * FRESH_SHARE else whole - used
        fitting = [job for job in self._waiting.values() if job.limits.time_seconds <= left]
        return sorted(fitting, key=lambda job: -job.priority)

    def _submit(self) -> None:
        jobs = self._fitting()
        if not jobs or self._end is not None:
            return
        for job in jobs:
            del self._waiting[job.job_id]
        jobs = [job for job in jobs if _claim(job) is None]
        with_files = [(job, self._store.path(job.job_id)) for job in jobs]
        uids = self._session.submit(with_files, self._pilots.program(self._name))
        self._submitted |= dict(zip(uids, jobs, strict=True))

    def _on_task(self, change: TaskChange) -> None:
        if not change.final:
            self._running.add(change.uid)
            return
        if change.with_its_pilot:
            return
        self._running.discard(change.uid)
        job = self._submitted.pop(change.uid, None)
        if job is None or change.exit_code == NOT_STARTED or os.path.lexists(job.files.record):
            self._remove(change.sandbox)
            return
        logger.info("%s is %s without a record: %s", job.job_id, change.state, change.text)
        text = f"RADICAL-Pilot says {change.state}" + (f": {change.text}" if change.text else "")
        refused = change.exit_code is None and _claim(job) is None
        self._ends[job.job_id] = TaskEnd(text, refused=refused)

    def _remove(self, sandbox: str) -> None:
        """Remove the ten files that RADICAL-Pilot made for a task."""
        path = Path(os.path.normpath(sandbox or "/"))
        if self._pilots.path(self._name) in path.parents:
            shutil.rmtree(path, ignore_errors=True)

    def _record_ends(self) -> None:
        for job_id, end in list(self._ends.items()):
            try:
                self._store.ends.add(job_id, end)
            except BackendUnavailable as error:
                logger.warning("%s", error.message)
                return
            del self._ends[job_id]

    def _record_state(self) -> None:
        running = len(self._running)
        pending = len(self._waiting) + len(self._submitted) - running
        self._state = replace(self._state, running=running, pending=pending)
        if self._state != self._recorded:
            try:
                self._pilots.states.put(self._name, self._state)
            except BackendUnavailable as error:
                logger.warning("%s", error.message)
            else:
                self._recorded = self._state

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """End the jobs, then the pilot: no job may run that no agent watches."""
        if self._state.state != FAILED:
            text = self._end.why if self._end is not None else "the pilot agent failed"
            state = OVER if self._active_at is not None or self._end is not None else FAILED
            self._state = replace(self._state, state=state, text=text, until=time.time())
        self._record_state()
        try:
            self._pilots.end(self._name)
        except OSError as error:
            logger.warning("the jobs end without notice: %s", error)
        graces = [job.limits.kill_grace_seconds for job in self._submitted.values()]
        deadline = time.monotonic() + max(graces, default=0) + _SHORT_SECONDS
        while any(self._runs(job) for job in self._submitted.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._record_ends()
        timer = threading.Timer(_CLOSE_LOCAL_SECONDS if self._settings.local else _CLOSE_SECONDS, os._exit, [1])
        timer.daemon = True
        timer.start()
        self._session.close()

    def _runs(self, job: PilotJob) -> bool:
        claim = _claim(job)
        return claim is not None and claim.owner == self._name and not os.path.lexists(job.files.record)


def _claim(job: PilotJob) -> Claim | None:
    try:
        return claims.read(job.files)
    except OSError as error:
        logger.warning("the claim of %s cannot be read: %s", job.job_id, error)
        return None


# --- the process -----------------------------------------------------------------------------------------------------


def _read_jobs(events: queue.SimpleQueue[Event]) -> None:
    """Read jobs until the worker has closed its end of the pipe, or has ended: a child of it may hold the pipe."""
    poller = select.poll()
    parent = os.pidfd_open(os.getppid())
    for descriptor in (0, parent):
        poller.register(descriptor, select.POLLIN)
    rest = b""
    while True:
        ready = [descriptor for descriptor, _ in poller.poll()]
        chunk = os.read(0, 65536) if 0 in ready else b""
        if not chunk:
            events.put(EndRequest("the worker has ended"))
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            events.put(PilotJob.decode(json.loads(line)))


def _start_sweeper() -> None:
    me = HostProcess.of(os.getpid())
    program = str(Path(__file__).with_name("sweep.py"))
    shell.spawn([sys.executable, "-I", "-S", program, str(me.pid), str(me.started)])
