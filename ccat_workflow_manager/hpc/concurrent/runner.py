"""One job of the `concurrent` backend, from its claim to its exit record; runs in a thread or a process of the pool.

The job is `/bin/sh` with the exit-record script, so it leaves a record even when the worker dies. While the worker
lives it watches the limits: time, memory of the whole process tree, size of the logs.
"""

from __future__ import annotations

import os
import platform
import pwd
import resource
import select
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Protocol

from ccat_workflow_manager import shell
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import log_excess
from ccat_workflow_manager.hpc.attempt.process_tree import Identity, Process
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record, signal_in
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.concurrent.store import Claim, Claimed, Ticket, TicketStore

_FIRST_LOOK_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_TABLE_AGE_SECONDS = 0.2
_CLEANING_ROUNDS = 50


class Stopping(Protocol):
    """Tells that the pool is being closed; of threads or of processes."""

    def is_set(self) -> bool: ...


@dataclass(slots=True)
class _SharedTable:
    """The process table, read at most once per moment however many jobs are watched."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    read_at: float = float("-inf")
    processes: dict[int, Process] = field(default_factory=dict)

    def get(self) -> dict[int, Process]:
        with self.lock:
            if time.monotonic() - self.read_at > _TABLE_AGE_SECONDS:
                self.processes = process_tree.table()
                self.read_at = time.monotonic()
            return self.processes


_shared_table = _SharedTable()
_pool_stopping: Stopping | None = None


def start_pool_process(stopping: Stopping) -> None:
    """What a process of the pool is told when it starts; such things cannot travel with a job."""
    global _pool_stopping  # noqa: PLW0603 - the only way into a function that the pool calls
    _pool_stopping = stopping


def run_in_pool_process(ticket: Ticket, directory: Path) -> None:
    assert _pool_stopping is not None
    run(ticket, directory, _pool_stopping)


def run(ticket: Ticket, directory: Path, stopping: Stopping) -> None:
    """Run one job to its end, or until the pool is closed."""
    JobRunner(ticket, TicketStore(directory), stopping).run()


class JobRunner:
    """The life of one job."""

    def __init__(self, ticket: Ticket, store: TicketStore, stopping: Stopping) -> None:
        self.ticket = ticket
        self.store = store
        self.stopping = stopping
        self.files: AttemptFiles = AttemptFiles.of(ticket.workspace, ticket.job_id)
        self.stopped_by: str | None = None
        self.stopped_text: str | None = None
        self.kill_at = float("inf")
        self.peak_memory = 0
        self.known: dict[int, int] = {}
        """Processes once seen in the tree (pid, start): they stay in it when their parents die."""

    def run(self) -> None:
        me = process_tree.identity(os.getpid())
        assert me is not None, "this process is in the process table"
        what = Claimed.DROPPED if self.stopping.is_set() else Claimed.STARTED
        if not self.store.claim(self.ticket.job_id, Claim(what, time.time(), me)) or what is Claimed.DROPPED:
            return
        if self.store.ticket(self.ticket.job_id) is None:
            # Cancelled and forgotten while it was waiting: the claim of the cancel has gone after the ticket.
            self.store.forget(self.ticket.job_id)
            return
        self._start()
        while not self._look():
            if self.stopping.is_set():
                # The pool has to let go of this thread, but as long as this process lives the limits are kept.
                threading.Thread(target=self._look_on, daemon=True).start()
                return

    def _start(self) -> None:
        # The kernel counts the memory of the process that spawns as memory of the spawned one, until that has more.
        self.inherited_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.started_at = time.time()
        self.started = time.monotonic()
        self.process = shell.spawn(
            ["/bin/sh", self.files.script],
            env={**clean_environment(), process_tree.MARK: self.ticket.job_id},
            cwd="/",
        )
        root = process_tree.identity(self.process.pid)
        assert root is not None, "one that has not been waited for is still in the process table"
        self.root = root
        self.store.set_process(self.ticket.job_id, self.root)
        self.pause = _FIRST_LOOK_SECONDS
        self.end = os.pidfd_open(self.process.pid)
        self.poller = select.poll()
        self.poller.register(self.end, select.POLLIN)

    def _look_on(self) -> None:
        while not self._look():
            pass

    def _look(self) -> bool:
        """Wait a moment for the end; True if it has come and is on record."""
        if not self.poller.poll(self.pause * 1000):
            self.pause = min(self.pause * 2, _LONGEST_PAUSE_SECONDS)
            self._keep_limits()
            return False
        os.close(self.end)
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._kill_everything()
        self._publish(usage)
        return True

    # --- limits ------------------------------------------------------------------------------------------------------

    def _keep_limits(self) -> None:
        memory = self._memory()
        self.peak_memory = max(self.peak_memory, memory)
        if self.stopped_by is not None:
            if time.monotonic() >= self.kill_at:
                self._kill_everything()
            return
        ticket = self.ticket
        if self.store.cancelled_at(ticket.job_id) is not None:
            self._stop("cancel", "cancelled on request")
        elif time.monotonic() - self.started > ticket.time_limit_seconds:
            self._stop("time_limit", f"it was still running after {ticket.time_limit_seconds:g} s")
        elif memory > ticket.memory_limit_bytes:
            self._stop("memory_limit", f"its processes held {memory} bytes, {ticket.memory_limit_bytes} were asked for")
            self._kill_everything()
        elif (words := log_excess(self.files, ticket.log_limit_bytes)) is not None:
            self._stop("log_limit", words)

    def _memory(self) -> int:
        processes = _shared_table.get()
        pids = process_tree.related(self.root, processes)
        for pid, started in self.known.items():
            if (process := processes.get(pid)) is not None and process.started == started:
                pids.add(pid)
        self.known = {pid: processes[pid].started for pid in pids}
        memory = process_tree.memory(processes[pid] for pid in pids)
        if memory <= self.ticket.memory_limit_bytes:
            return memory
        # Before a job is ended for it, what its processes share is counted once.
        return process_tree.fair_memory(pids)

    def _stop(self, by: str, text: str) -> None:
        """Ask all processes but the script itself to end; it is to write down how its program ended."""
        self.stopped_by = by
        self.stopped_text = text
        self.kill_at = time.monotonic() + self.ticket.kill_grace_seconds
        self.pause = _FIRST_LOOK_SECONDS
        process_tree.send(SIGTERM, process_tree.members(self.ticket.job_id, self.root) - {self.root.pid})

    def _kill_everything(self) -> None:
        kill_all(self.ticket.job_id, self.root)

    # --- the record --------------------------------------------------------------------------------------------------

    def _publish(self, usage: resource.struct_rusage) -> None:
        """The script's own record, with what only a parent can know; a record even if the script was killed as well."""
        record = self._script_record() or self._own_record()
        record = replace(
            record,
            started_at=datetime.fromtimestamp(self.started_at, UTC),
            finished_at=datetime.now(UTC),
            wall_time_seconds=time.monotonic() - self.started,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_memory_bytes=max(self.peak_memory, self._own_peak(usage)) or None,
            memory_source="wait4",
            signal=signal_in(record.exit_code),
            stopped_by=self.stopped_by,
            stopped_text=self.stopped_text,
            oom_killed=self.stopped_by == "memory_limit",
            host=platform.node(),
        )
        write_whole(self.files.record, record.to_json())

    def _script_record(self) -> ExitRecord | None:
        for path in (self.files.record_part, self.files.record):
            with suppress(FileNotFoundError, ValueError):
                return parse_exit_record(Path(path).read_text(encoding="utf-8", errors="replace"))
        return None

    def _own_record(self) -> ExitRecord:
        """For a script that was killed before it could write anything."""
        code = self.process.returncode or 0
        return ExitRecord(self.ticket.job_id, exit_code=128 - code if code < 0 else code)

    def _own_peak(self, usage: resource.struct_rusage) -> int:
        peak = usage.ru_maxrss * 1024
        return peak if peak > self.inherited_peak else 0


def clean_environment() -> dict[str, str]:
    """What a job finds besides its own variables; nothing of the worker's environment gets through."""
    return {"PATH": CLEAN_PATH, "HOME": pwd.getpwuid(os.geteuid()).pw_dir, "LANG": "C.UTF-8"}


def end_all(job_id: str, root: Identity | None, grace_seconds: float) -> None:
    """Kill what has not ended by itself when the grace is over."""
    deadline = time.monotonic() + grace_seconds
    while process_tree.members(job_id, root) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_all(job_id, root)


def kill_all(job_id: str, root: Identity | None) -> None:
    """Kill all processes of a job, again and again until there are none: while some are killed others may fork."""
    for _ in range(_CLEANING_ROUNDS):
        pids = process_tree.members(job_id, root)
        if not pids:
            return
        process_tree.send(SIGKILL, pids)
        time.sleep(0.01)


def write_whole(path: str, text: str) -> None:
    """Write a file that nobody ever sees half written."""
    part = f"{path}.{os.getpid()}.{threading.get_ident()}"
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(part, path)
