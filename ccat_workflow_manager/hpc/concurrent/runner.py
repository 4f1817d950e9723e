"""Runs one ticket in a thread or a process of the pool."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ccat_workflow_manager.hpc.attempt import claim, process_tree
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess, Process
from ccat_workflow_manager.hpc.attempt.runner import JobRunner
from ccat_workflow_manager.hpc.concurrent.tickets import Ticket, TicketStore

NEVER_STARTED = "it was never started: the worker it waited for has ended"
_TABLE_AGE_SECONDS = 0.2


class Stopping(Protocol):
    """Set when the pool closes; an event of threads or of processes."""

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
    """Initialise a process of the pool; an event cannot travel with a job."""
    global _pool_stopping  # noqa: PLW0603 - the only way into a function that the pool calls
    _pool_stopping = stopping


def run_in_pool_process(ticket: Ticket, directory: Path) -> None:
    assert _pool_stopping is not None
    run(ticket, directory, _pool_stopping)


def run(ticket: Ticket, directory: Path, stopping: Stopping) -> None:
    """Run one job to its end, or until the pool closes. Raises OSError and BackendUnavailable."""
    files = ticket.files
    if stopping.is_set():
        claim.block(files, NEVER_STARTED)
        return
    if not claim.take(files, HostProcess.of(os.getpid()).text):
        return
    runner = JobRunner(files, ticket.limits, table=_shared_table.get)
    TicketStore(directory).update(ticket.job_id, process=runner.start())
    while not runner.step():
        if stopping.is_set():
            # The pool needs this thread back, but as long as this process lives, the limits are kept.
            threading.Thread(target=_run_on, args=(runner,), daemon=True).start()
            return


def _run_on(runner: JobRunner) -> None:
    while not runner.step():
        pass
