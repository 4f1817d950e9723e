"""Runs one job: claim, start, limits, cancel, the end of all its processes, the exit record.

The job is `/bin/sh` with the supervised job script, in a session of its own, so it leaves a record even if its runner
dies. A runner is used by one thread or process of its own (`concurrent`) or is a process on a node (`dask`,
`radical_pilot`); it heartbeats by touching the claim.
"""

from __future__ import annotations

import os
import platform
import resource
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from signal import SIGPIPE, SIGTERM, SIGXFSZ

from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.disk import GIB, disk_excess
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import log_excess
from ccat_workflow_manager.hpc.attempt.process_tree import Identity, Process
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, publish, read_script_record, signal_in, utc
from ccat_workflow_manager.hpc.attempt.script import clean_environment, job_variables

IGNORED_BY_PYTHON = (SIGPIPE, SIGXFSZ)
"""Signals that a job gets back."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_DISK_SECONDS = 5.0
_NO_STREAMS = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use."""

    time_seconds: float = inf
    memory_bytes: float = inf
    log_bytes: float = inf
    disk_bytes: float = inf
    kill_grace_seconds: float = 5.0

    @classmethod
    def configured(cls, log_limit_mb: float, disk_limit_gb: float, kill_grace_seconds: float) -> Limits:
        """The limits of every job, from the settings. A disk limit of 0 is none."""
        disk = disk_limit_gb * GIB if disk_limit_gb else inf
        return cls(log_bytes=int(log_limit_mb * 1024**2), disk_bytes=disk, kill_grace_seconds=kill_grace_seconds)

    def of_job(self, time_hours: float, memory_gb: float) -> Limits:
        """These limits, with those of one job."""
        return replace(self, time_seconds=time_hours * 3600, memory_bytes=int(memory_gb * GIB))


def carried_on() -> None:
    """For a runner whose carrier cannot end without it."""


class JobRunner:
    """The life of one job.

    `carrier_lost` is called at every look: it returns why the job has to end with the process that carries it (a Dask
    worker, a pilot), or None. A runner whose carrier closes a pipe names the descriptor in `wake_on`, so that it
    notices at once. `table` reads the processes of the machine; runners in one process may share a cached one.
    """

    def __init__(
        self,
        files: AttemptFiles,
        limits: Limits,
        *,
        environment: Mapping[str, str] | None = None,
        carrier_lost: Callable[[], str | None] = carried_on,
        wake_on: Sequence[int] = (),
        table: Callable[[], dict[int, Process]] = process_tree.table,
    ) -> None:
        self.files = files
        self.limits = limits
        self.stopped_by: str | None = None
        self.stopped_text: str | None = None
        self._environment = {**clean_environment(), **(environment or {}), **job_variables(files.job_name)}
        self._carrier_lost = carrier_lost
        self._wake_on = wake_on
        self._table = table
        self._kill_at = inf
        self._beat_at = self._disk_at = 0.0
        self._pause = _SHORTEST_PAUSE
        self._peak_memory = 0
        self._known: dict[int, int] = {}
        """Processes that were in the tree (pid, start): they stay in it when their parents die."""

    def run(self, owner: str) -> bool:
        """Run the job to its end. Returns False if the attempt is claimed already. Raises OSError."""
        if not claims.take(self.files, owner):
            return False
        self.start()
        while not self.step():
            pass
        return True

    # --- the job -----------------------------------------------------------------------------------------------------

    def start(self) -> Identity:
        """Start the job; the attempt has to be claimed. Raises OSError."""
        # The kernel counts the memory of the process that spawns as memory of the spawned one, until that has more.
        self._inherited_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._started_at, self._started = time.time(), time.monotonic()
        self._pid = os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", self.files.script],
            self._environment,
            file_actions=[*_NO_STREAMS, *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable())],
            setsid=True,
            setsigdef=IGNORED_BY_PYTHON,
            setsigmask=(),
        )
        root = process_tree.identity(self._pid)
        assert root is not None, "a child that has not been waited for is still in the process table"
        self.root = root
        self._end = os.pidfd_open(self._pid)
        self._poller = select.poll()
        for descriptor in (self._end, *self._wake_on):
            self._poller.register(descriptor, select.POLLIN)
        return root

    def step(self) -> bool:
        """Wait a moment for the end and keep the limits. Returns True once the record is written. Raises OSError."""
        ready = {descriptor for descriptor, _ in self._poller.poll(self._pause * 1000)}
        if self._end in ready:
            self._finish()
            return True
        for descriptor in ready:
            self._poller.unregister(descriptor)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self._keep_limits()
        return False

    def _finish(self) -> None:
        os.close(self._end)
        _, status, usage = os.wait4(self._pid, 0)
        process_tree.kill_all(self.files.job_name, self.root)
        publish(self.files, self._record(os.waitstatus_to_exitcode(status), usage))

    # --- limits ------------------------------------------------------------------------------------------------------

    def _keep_limits(self) -> None:
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + claims.BEAT_SECONDS
            claims.touch(self.files)
        memory = self._memory()
        self._peak_memory = max(self._peak_memory, memory)
        if self.stopped_by is None:
            self._check(now, memory)
        elif now >= self._kill_at:
            process_tree.kill_all(self.files.job_name, self.root)

    def _check(self, now: float, memory: int) -> None:
        limits = self.limits
        if (why := self._carrier_lost()) is not None:
            self._stop("carrier_lost", why)
        elif os.path.lexists(self.files.cancel):
            self._stop("cancel", "cancelled on request")
        elif now - self._started > limits.time_seconds:
            self._stop("time_limit", f"it was still running after {limits.time_seconds:g} s")
        elif memory > limits.memory_bytes:
            text = f"its processes held {memory} bytes, {limits.memory_bytes:.0f} were asked for"
            self._stop("memory_limit", text)
            process_tree.kill_all(self.files.job_name, self.root)
        elif (why := log_excess(self.files, limits.log_bytes, self._pid)) is not None:
            self._stop("log_limit", why)
        elif (why := self._disk_excess(now)) is not None:
            self._stop("disk_limit", why)

    def _disk_excess(self, now: float) -> str | None:
        if now < self._disk_at or self.limits.disk_bytes == inf:
            return None
        why = disk_excess(self.files.directory, self.limits.disk_bytes)
        # A look at many files takes long: it may take a tenth of the time.
        self._disk_at = now + max(_DISK_SECONDS, 10 * (time.monotonic() - now))
        return why

    def _memory(self) -> int:
        processes = self._table()
        pids = process_tree.related(self.root, processes)
        for pid, started in self._known.items():
            if (process := processes.get(pid)) is not None and process.started == started:
                pids.add(pid)
        self._known = {pid: processes[pid].started for pid in pids}
        return process_tree.memory_against(self.limits.memory_bytes, [processes[pid] for pid in pids])

    def _stop(self, by: str, text: str) -> None:
        """Ask all processes but the script itself to end; the script writes down how its program ended."""
        self.stopped_by, self.stopped_text = by, text
        self._kill_at = time.monotonic() + self.limits.kill_grace_seconds
        self._pause = _SHORTEST_PAUSE
        process_tree.send(SIGTERM, process_tree.members(self.files.job_name, self.root) - {self.root.pid})

    # --- the record --------------------------------------------------------------------------------------------------

    def _record(self, code: int, usage: resource.struct_rusage) -> ExitRecord:
        """The script's own record with what only a parent knows; a record even if the script was killed as well."""
        own = ExitRecord(self.files.job_name, exit_code=128 - code if code < 0 else code)
        record = read_script_record(self.files) or own
        exit_code = None if self.stopped_by == "carrier_lost" else record.exit_code
        peak = usage.ru_maxrss * 1024
        return replace(
            record,
            exit_code=exit_code,
            signal=signal_in(exit_code),
            started_at=utc(self._started_at),
            finished_at=utc(time.time()),
            wall_time_seconds=time.monotonic() - self._started,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_memory_bytes=max(self._peak_memory, peak if peak > self._inherited_peak else 0) or None,
            memory_source="wait4",
            stopped_by=self.stopped_by,
            stopped_text=self.stopped_text,
            oom_killed=self.stopped_by == "memory_limit",
            host=platform.node(),
        )


def end_abandoned(files: AttemptFiles, why: str) -> None:
    """End a job whose runner was killed, and leave a record. Raises OSError."""
    process_tree.kill_all(files.job_name, None)
    if not os.path.lexists(files.record):
        publish(files, ExitRecord(files.job_name, exit_code=None, stopped_text=why))


def _inheritable() -> list[int]:
    """The descriptors that a job would inherit: a process of a pool has some from its own start."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself is closed by now
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found
