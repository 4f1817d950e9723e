"""What the bridge does: takes jobs from the worker, gives them to the pilot while it has time for them, notes ends."""

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
from types import FrameType
from typing import Any

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.radical_pilot import pilot_dir
from ccat_workflow_manager.hpc.radical_pilot.options import PilotOptions
from ccat_workflow_manager.hpc.radical_pilot.pilot_dir import BEAT_SECONDS, PilotDir, PilotNote
from ccat_workflow_manager.hpc.radical_pilot.rp_session import PilotNews, RadicalSession, TaskNews
from ccat_workflow_manager.hpc.radical_pilot.start_script import NOT_MINE
from ccat_workflow_manager.hpc.radical_pilot.store import (
    End,
    JobStore,
    Ticket,
    ask_to_stop,
    claim_of,
    record_of,
    stopped_of,
)

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_PRUNE_SECONDS = 10.0
_OPEN_SECONDS = 300.0
_CLOSE_SECONDS = 20.0
_CLOSE_LOCAL_SECONDS = 4.0
"""On this machine nothing is left to be told to anybody: what does not end is swept away."""
_FRESH_SHARE = 0.1
"""A pilot that has used less of its time than this takes every job that fits into the whole of it."""
_SETTLE_SECONDS = 3.0
_OPEN_FAULTS = (RuntimeError, ValueError, LookupError, OSError, TypeError, AttributeError, AssertionError, ImportError)
"""What RADICAL-Pilot raises when a label, a scheduler or an installation is not what it should be."""


@dataclass(frozen=True, slots=True)
class _JobNews:
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class _EndNews:
    why: str


_News = PilotNews | TaskNews | _JobNews | _EndNews


def run(root: Path, name: str) -> int:
    """Look after one pilot from its start to its end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pilot = PilotDir(root / "pilots" / name)
    options, rest = _read_options()
    _start_sweeper()
    news: queue.SimpleQueue[_News] = queue.SimpleQueue()
    threading.Thread(target=_beat, args=(pilot,), daemon=True).start()
    threading.Thread(target=_listen, args=(news, rest), daemon=True).start()
    code = 1
    try:
        PilotAgent(JobStore(root / "jobs"), pilot, options, news).run()
        code = 0
    except BaseException:
        logger.exception("the bridge broke")
        raise
    finally:
        # Threads of RADICAL-Pilot that do not end have kept others waiting for ever.
        os._exit(code)


class PilotAgent:
    """One pilot and its jobs."""

    def __init__(self, store: JobStore, pilot: PilotDir, options: PilotOptions, news: queue.SimpleQueue[_News]) -> None:
        self._store = store
        self._pilot = pilot
        self._options = options
        self._news = news
        self._session = RadicalSession(options, pilot.path, news.put)
        self._note = PilotNote()
        self._waiting: dict[str, Ticket] = {}
        self._handed: dict[str, Ticket] = {}
        self._running: set[str] = set()
        self._ends: dict[str, End] = {}
        self._active_at: float | None = None
        self._busy_at = self._pruned_at = time.monotonic()
        self._why_end: str | None = None
        self._told = False

    def run(self) -> None:
        try:
            self._open()
            while self._why_end is None:
                self._take_news()
                self._submit()
                self._write_ends()
                self._look_at_the_clock()
                self._tell()
        finally:
            self._finish()

    # --- the pilot ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._pilot.set_note(self._note)
        timer = threading.Timer(_OPEN_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            shape = self._session.open()
        except _OPEN_FAULTS as error:
            logger.exception("there is no pilot")
            self._fail(f"{self._options.resource}: {error}")
            return
        finally:
            timer.cancel()
        # RADICAL-Pilot has handlers of its own by now.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        text = self._note.text if self._options.local else f"the pilot waits in the queue of {self._options.resource}"
        self._note = replace(
            self._note,
            text=text,
            cores_per_node=shape.cores_per_node,
            gpus_per_node=self._options.gpus,
            memory_mb_per_node=shape.memory_mb_per_node,
        )

    def _give_up(self) -> None:
        """RADICAL-Pilot waits for ever for programs of its own that did not start."""
        self._fail(f"RADICAL-Pilot did not come up within {_OPEN_SECONDS:g} s; see {self._pilot.path}")
        self._pilot.set_note(self._note)
        os._exit(1)

    def _fail(self, text: str) -> None:
        self._note = replace(self._note, state=pilot_dir.FAILED, text=text)
        self._why_end = text

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._news.put(_EndNews(f"signal {number} asked it to end"))

    def _on_pilot(self, news: PilotNews) -> None:
        logger.info("the pilot is %s %s", news.state, news.text)
        if news.active and self._active_at is None:
            self._active_at = self._busy_at = time.monotonic()
            until = time.time() + self._options.walltime_minutes * 60
            self._note = replace(
                self._note, state=pilot_dir.ACTIVE, text="all places of the pilot are taken", until=until
            )
        if news.final and self._why_end is None:
            if self._active_at is None:
                self._fail(f"it ended as {news.state} before it was active {news.text}".strip())
            else:
                self._why_end = f"the pilot ended as {news.state}"

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if self._active_at is None and now - self._pruned_at > _PRUNE_SECONDS:
            # Who waits for long in a queue is cancelled meanwhile; nobody needs a pilot for him.
            self._pruned_at = now
            self._waiting = {job_id: ticket for job_id, ticket in self._waiting.items() if not _is_claimed(ticket)}
        if self._waiting or self._handed:
            self._busy_at = now
        elif now - self._busy_at > self._options.idle_minutes * 60:
            self._why_end = f"the pilot had nothing to do for {self._options.idle_minutes:g} minutes"
        if self._waiting and not self._handed and self._active_at is not None and not self._fitting():
            self._why_end = "what waits does not fit into the rest of the pilot's time"

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _take_news(self) -> None:
        try:
            news = self._news.get(timeout=_TICK_SECONDS)
            while True:
                self._take(news)
                news = self._news.get_nowait()
        except queue.Empty:
            return

    def _take(self, news: _News) -> None:
        match news:
            case _JobNews():
                self._waiting[news.ticket.job_id] = news.ticket
            case PilotNews():
                self._on_pilot(news)
            case TaskNews():
                self._on_task(news)
            case _EndNews():
                logger.info("to end: %s", news.why)
                self._why_end = news.why

    def _fitting(self) -> list[Ticket]:
        """The jobs that the pilot has time for, the most urgent first."""
        if self._active_at is None:
            return []
        whole = self._options.walltime_minutes * 60
        used = time.monotonic() - self._active_at
        fresh = used < whole * _FRESH_SHARE
        fitting = [ticket for ticket in self._waiting.values() if fresh or ticket.limit_seconds <= whole - used]
        return sorted(fitting, key=lambda ticket: -ticket.priority)

    def _submit(self) -> None:
        tickets = self._fitting()
        if not tickets or self._why_end is not None:
            return
        for ticket in tickets:
            del self._waiting[ticket.job_id]
        tickets = [ticket for ticket in tickets if not _is_claimed(ticket)]
        for uid, ticket in zip(self._session.submit(tickets, self._store), tickets, strict=True):
            self._handed[uid] = ticket

    def _on_task(self, news: TaskNews) -> None:
        if not news.final:
            self._running.add(news.uid)
            return
        if news.with_its_pilot:
            return
        self._running.discard(news.uid)
        ticket = self._handed.pop(news.uid, None)
        if ticket is None or news.exit_code == NOT_MINE or _has_record(ticket):
            self._remove(news.sandbox)
            return
        refused = news.exit_code is None and not _is_claimed(ticket)
        logger.info("%s is %s without a record: %s", ticket.job_id, news.state, news.text)
        text = f"RADICAL-Pilot says {news.state}" + (f": {news.text}" if news.text else "")
        self._ends[ticket.job_id] = End(time.time(), text, refused=refused)

    def _remove(self, sandbox: str) -> None:
        """Of a job that has come to its end nobody needs what RADICAL-Pilot has made for it: ten files."""
        path = Path(os.path.normpath(sandbox or "/"))
        if self._pilot.path in path.parents:
            shutil.rmtree(path, ignore_errors=True)

    def _write_ends(self) -> None:
        for job_id, end in list(self._ends.items()):
            try:
                self._store.set_end(job_id, end)
            except BackendUnavailable as error:
                logger.warning("%s", error.message)
                return
            del self._ends[job_id]

    def _tell(self) -> None:
        running = len(self._running)
        note = replace(
            self._note,
            cores=self._options.pilot_size.get("cores") or self._options.nodes * self._note.cores_per_node,
            running=running,
            pending=len(self._waiting) + len(self._handed) - running,
            details={"resource": self._options.resource, "pilot": self._pilot.path.name},
        )
        if note != self._note or not self._told:
            self._note = note
            self._pilot.set_note(note)
            self._told = True

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Nothing runs on without somebody who looks after it: jobs first, then the pilot."""
        if self._note.state != pilot_dir.FAILED:
            text = self._why_end or "the bridge broke"
            state = pilot_dir.ENDED if self._active_at is not None or self._why_end else pilot_dir.FAILED
            self._note = replace(self._note, state=state, text=text, until=time.time())
        self._pilot.set_note(self._note)
        deadline = time.monotonic() + self._options.kill_grace_seconds + _SETTLE_SECONDS
        while self._stop_jobs() and time.monotonic() < deadline:
            time.sleep(0.1)
        self._write_ends()
        patience = _CLOSE_LOCAL_SECONDS if self._options.local else _CLOSE_SECONDS
        timer = threading.Timer(patience, os._exit, [1])
        timer.daemon = True
        timer.start()
        self._session.close()
        # What began while the pilot was being closed.
        self._stop_jobs()

    def _stop_jobs(self) -> bool:
        """Ask the keepers of the jobs to stop them; True while some run."""
        left = False
        for ticket in self._handed.values():
            try:
                claim = claim_of(ticket)
                mine = claim is not None and claim.pilot in ("", self._pilot.path.name)
                if not mine or _has_record(ticket) or stopped_of(ticket)[1]:
                    continue
                ask_to_stop(ticket, "pilot")
                left = True
            except OSError as error:
                logger.warning("%s cannot be stopped: %s", ticket.job_id, error)
        return left


def _is_claimed(ticket: Ticket) -> bool:
    try:
        return claim_of(ticket) is not None
    except OSError:
        return False


def _has_record(ticket: Ticket) -> bool:
    try:
        return record_of(ticket) is not None
    except OSError:
        return False


# --- around it -------------------------------------------------------------------------------------------------------


def _read_options() -> tuple[PilotOptions, bytes]:
    data = b""
    while b"\n" not in data:
        chunk = os.read(0, 65536)
        if not chunk:
            sys.exit("nobody has said what the pilot is to be")
        data += chunk
    line, _, rest = data.partition(b"\n")
    return PilotOptions(**json.loads(line)), rest


def _listen(news: queue.SimpleQueue[_News], rest: bytes) -> None:
    """Read jobs until the worker has closed its end of the pipe, or is gone."""
    poller = select.poll()
    poller.register(0, select.POLLIN | select.POLLHUP)
    parent = os.pidfd_open(os.getppid())
    poller.register(parent, select.POLLIN)
    while True:
        *lines, rest = rest.split(b"\n")
        for line in lines:
            job: dict[str, Any] = json.loads(line)["job"]
            news.put(_JobNews(Ticket(**job)))
        ready = [descriptor for descriptor, _ in poller.poll()]
        chunk = os.read(0, 65536) if 0 in ready else b""
        if not chunk:
            news.put(_EndNews("the worker has ended"))
            return
        rest += chunk


def _beat(pilot: PilotDir) -> None:
    number = 0
    while True:
        number += 1
        try:
            pilot.beat(number)
        except OSError as error:
            logger.warning("no sign of life could be given: %s", error)
        time.sleep(BEAT_SECONDS)


def _start_sweeper() -> None:
    me = process_tree.identity(os.getpid())
    assert me is not None, "this process is in the process table"
    program = str(Path(__file__).with_name("sweep.py"))
    shell.spawn([sys.executable, "-I", "-S", program, str(me.pid), str(me.started)])
