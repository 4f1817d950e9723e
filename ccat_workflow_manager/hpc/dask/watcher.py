"""The process between a Dask worker and one job: it keeps the limits, and it ends the job when the worker is gone.

    python -I -S run.py '{"job_name": ..., ...}'      # its standard input is held open by the Dask worker

The job is `/bin/sh` with the exit-record script, in a session of its own. When the worker dies, however it dies, the
pipe on standard input closes; then nobody is left who answers for the job at Dask, and it is stopped.

This file is shipped to Dask workers with the few modules that it imports: standard library only otherwise.
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import resource
import select
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from signal import SIGKILL, SIGTERM

from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.log_files import excess
from ccat_workflow_manager.hpc.attempt.script import (
    CLEAN_PATH,
    ExitRecord,
    JobFiles,
    job_files,
    parse_exit_record,
    signal_in,
)
from ccat_workflow_manager.hpc.dask import claims
from ccat_workflow_manager.hpc.dask.claims import Claim, What

TAKEN = 75
"""The exit code of a watcher that found the attempt in other hands."""
_FIRST_LOOK_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_CLEANING_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Order:
    """What a watcher is told."""

    job_name: str
    workspace: str
    time_limit_seconds: float
    memory_limit_bytes: int
    log_limit_bytes: int
    kill_grace_seconds: float
    worker: str = ""
    abandoned: bool = False
    """The first watcher is dead: only end what it has left behind."""

    @property
    def files(self) -> JobFiles:
        return job_files(self.workspace, self.job_name)

    @property
    def base(self) -> str:
        return base_of(self.files)


def base_of(files: JobFiles) -> str:
    """What the names of all files of an attempt begin with."""
    return files.script.removesuffix(".sh")


class Watcher:
    """The life of one job, from its claim to its exit record."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.files = order.files
        self.worker = os.getppid()
        self.stopped_by: str | None = None
        self.stopped_text: str | None = None
        self.lost = False
        self.kill_at = float("inf")
        self.beat_at = 0.0
        self.peak_memory = 0
        self.known: dict[int, int] = {}
        """Processes once seen in the tree (pid, start): they stay in it when their parents die."""

    def run(self) -> int:
        order = self.order
        claim = Claim(What.STARTED, time.time(), platform.node(), order.worker)
        if not claims.take(order.base, claim):
            return TAKEN
        self._start()
        while not self._look():
            self._keep_limits()
        return 0

    def end_abandoned(self) -> int:
        """Instead of `run`, when the watcher of the job has been killed: nothing may be left of the job."""
        kill_all(self.order.job_name, None)
        if not os.path.exists(self.files.record):
            text = "the process that watched over the job was killed, and the job with it"
            self._write(ExitRecord(self.order.job_name, exit_code=None, stopped_text=text))
        return 0

    # --- the job -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        os.chdir("/")
        self.inherited_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.started_at, self.started = time.time(), time.monotonic()
        nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        environment = {**clean_environment(), process_tree.MARK: self.order.job_name}
        self.pid = os.posix_spawn(
            "/bin/sh", ["/bin/sh", self.files.script], environment, file_actions=nothing, setsid=True
        )
        root = process_tree.identity(self.pid)
        assert root is not None, "one that has not been waited for is still in the process table"
        self.root = root
        self.pause = _FIRST_LOOK_SECONDS
        self.end = os.pidfd_open(self.pid)
        self.poller = select.poll()
        self.poller.register(self.end, select.POLLIN)
        self.poller.register(sys.stdin.fileno(), select.POLLIN)

    def _look(self) -> bool:
        """Wait a moment for the end; True if it has come and is on record."""
        ready = {fd for fd, _ in self.poller.poll(self.pause * 1000)}
        if self.end not in ready:
            self.pause = min(self.pause * 2, _LONGEST_PAUSE_SECONDS)
            if sys.stdin.fileno() in ready:
                self.poller.unregister(sys.stdin.fileno())
                self._lose()
            elif os.getppid() != self.worker:
                self._lose()
            return False
        os.close(self.end)
        _, status, usage = os.wait4(self.pid, 0)
        kill_all(self.order.job_name, self.root)
        self._publish(os.waitstatus_to_exitcode(status), usage)
        return True

    def _lose(self) -> None:
        """The Dask worker is gone."""
        if not self.lost:
            self.lost = True
            self._stop(None, f"the Dask worker {self.order.worker} ended while it ran the job")

    # --- limits ------------------------------------------------------------------------------------------------------

    def _keep_limits(self) -> None:
        now, order = time.monotonic(), self.order
        if now >= self.beat_at:
            self.beat_at = now + claims.BEAT_SECONDS
            claims.beat(order.base)
        memory = self._memory()
        self.peak_memory = max(self.peak_memory, memory)
        if self.kill_at != float("inf"):
            if now >= self.kill_at:
                kill_all(order.job_name, self.root)
        elif claims.asked_to_stop(order.base):
            self._stop("cancel", "cancelled on request")
        elif now - self.started > order.time_limit_seconds:
            self._stop("time_limit", f"it was still running after {order.time_limit_seconds:g} s")
        elif memory > order.memory_limit_bytes:
            self._stop("memory_limit", f"its processes held {memory} bytes, {order.memory_limit_bytes} were asked for")
            kill_all(order.job_name, self.root)
        elif (words := excess(self.files, order.log_limit_bytes)) is not None:
            self._stop("log_limit", words)

    def _memory(self) -> int:
        processes = process_tree.table()
        pids = process_tree.related(self.root, processes)
        for pid, started in self.known.items():
            if (process := processes.get(pid)) is not None and process.started == started:
                pids.add(pid)
        self.known = {pid: processes[pid].started for pid in pids}
        memory = process_tree.memory(processes[pid] for pid in pids)
        if memory <= self.order.memory_limit_bytes:
            return memory
        # Before a job is ended for it, what its processes share is counted once.
        return process_tree.fair_memory(pids)

    def _stop(self, by: str | None, text: str) -> None:
        """Ask all processes but the script itself to end; it is to write down how its program ended."""
        self.stopped_by, self.stopped_text = by, text
        self.kill_at = time.monotonic() + self.order.kill_grace_seconds
        self.pause = _FIRST_LOOK_SECONDS
        process_tree.send(SIGTERM, process_tree.members(self.order.job_name, self.root) - {self.root.pid})

    # --- the record --------------------------------------------------------------------------------------------------

    def _publish(self, code: int, usage: resource.struct_rusage) -> None:
        """The script's own record, with what only a parent can know; a record even if the script was killed as well."""
        own = ExitRecord(self.order.job_name, exit_code=128 - code if code < 0 else code)
        record = self._script_record() or own
        # The memory of the process that starts another counts as that one's, until it has more.
        peak = usage.ru_maxrss * 1024
        self._write(
            replace(
                record,
                exit_code=None if self.lost else record.exit_code,
                started_at=datetime.fromtimestamp(self.started_at, UTC),
                finished_at=datetime.now(UTC),
                wall_time_seconds=time.monotonic() - self.started,
                cpu_seconds=usage.ru_utime + usage.ru_stime,
                peak_memory_bytes=max(self.peak_memory, peak if peak > self.inherited_peak else 0) or None,
                memory_source="wait4",
                signal=None if self.lost else signal_in(record.exit_code),
                stopped_by=self.stopped_by,
                stopped_text=self.stopped_text,
                oom_killed=self.stopped_by == "memory_limit",
                host=platform.node(),
            )
        )

    def _script_record(self) -> ExitRecord | None:
        for path in (self.files.record_part, self.files.record):
            with suppress(FileNotFoundError, ValueError), open(path, encoding="utf-8", errors="replace") as file:
                return parse_exit_record(file.read())
        return None

    def _write(self, record: ExitRecord) -> None:
        """Write the record so that nobody ever sees half of it."""
        text = json.dumps({**json.loads(record.to_json()), "lost": self.lost})
        part = f"{self.files.record}.{os.getpid()}"
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(part, self.files.record)


def clean_environment() -> dict[str, str]:
    """What a job finds besides its own variables; nothing of the Dask worker's environment gets through."""
    return {"PATH": CLEAN_PATH, "HOME": pwd.getpwuid(os.geteuid()).pw_dir, "LANG": "C.UTF-8"}


def kill_all(job_name: str, root: process_tree.Identity | None) -> None:
    """Kill all processes of a job, again and again until there are none: while some are killed others may fork."""
    for _ in range(_CLEANING_ROUNDS):
        pids = process_tree.members(job_name, root)
        if not pids:
            return
        process_tree.send(SIGKILL, pids)
        time.sleep(0.01)


def main() -> int:
    watcher = Watcher(Order(**json.loads(sys.argv[1])))
    return watcher.end_abandoned() if watcher.order.abandoned else watcher.run()
