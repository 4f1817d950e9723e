"""The processes of a job, for the supervisor that has started them or taken them over."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.disk import GIB, disk_excess
from ccat_workflow_manager.hpc.attempt.logs import log_excess
from ccat_workflow_manager.hpc.attempt.process_tree import Identity
from ccat_workflow_manager.hpc.supervisor.jobs import Job, Stop

_DISK_SECONDS = 5.0


def everything(job: Job) -> set[int]:
    """All processes of a job: below its script, in its session, with its mark, in its control group."""
    if job.root is None and job.pid:
        # A child keeps its pid until it is waited for. Later the pid may be another's, and only its session counts.
        alive = process_tree.identity(job.pid) if job.end is None else None
        job.root = alive or Identity(job.pid, 0)
    found = process_tree.members(job.id, job.root)
    if job.group is not None:
        with suppress(OSError):
            found.update(job.group.members())
    return found


def left_over(job: Job, others: Iterable[int]) -> set[int]:
    """The processes that a job whose script is over has left behind. `others` are children that are not left over.

    The quick ways are enough for nearly every job: its control group, or the orphans that this process has inherited.
    """
    if job.adopted or job.stop is not None:
        return everything(job)
    if job.group is not None:
        with suppress(OSError):
            return set(job.group.members())
    orphans = _children()
    if orphans is None:
        return everything(job)
    orphans.difference_update(others)
    return everything(job) if orphans and process_tree.marked(job.id, orphans) else set()


def usage(job: Job) -> dict[str, Any]:
    """What the job uses now."""
    pids = everything(job)
    memory = process_tree.fair_memory(pids)
    peak: int | None = max(job.sampled_peak, memory)
    if job.group is not None:
        with suppress(OSError):
            memory, peak = job.group.usage(), job.group.peak()
    living = [process for pid in pids if (process := process_tree.look(pid)) is not None]
    cpu_seconds = sum(process.cpu_seconds for process in living)
    return {"cpu_seconds": cpu_seconds, "memory": memory, "peak": peak, "processes": len(pids)}


def is_script_of(pid: int, job: Job) -> bool:
    """Whether this process is the job's script, and not another one that has got its pid."""
    process = process_tree.look(pid)
    return process is not None and process.alive and bool(process_tree.marked(job.id, [pid]))


def uptime() -> float:
    """The clock of /proc/uptime, in which job scripts record when they began."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _children() -> set[int] | None:
    """The children of this process, which orphans become as well; None if the kernel does not list them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return {int(pid) for pid in file.read().split()}
    except OSError:
        return None


class DiskWatch:
    """Looks at the disk space of running jobs in a thread: for a job with many files that takes long."""

    def __init__(self) -> None:
        self._jobs: Mapping[str, str] = {}
        self._limit = 0
        self._found: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def excess(self, jobs: Sequence[Job], limit: int) -> Mapping[str, str]:
        """Why jobs must stop that have too much, by id, as far as it is known by now. A limit of 0 is none."""
        if not limit:
            return {}
        self._jobs, self._limit = {job.id: job.files.directory for job in jobs}, limit
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
            self._thread.start()
        found, self._found = self._found, {}
        return found

    def _run(self) -> None:
        while True:
            for job_id, directory in self._jobs.items():
                if (why := disk_excess(directory, self._limit)) is not None:
                    self._found[job_id] = why
            time.sleep(_DISK_SECONDS)


def broken_limits(jobs: Sequence[Job], log_limit: int) -> Iterator[tuple[Job, Stop]]:
    """The running jobs that have exceeded a limit of log space or, without control group, of memory."""
    table = process_tree.table() if any(job.group is None for job in jobs) else {}
    for job in jobs:
        if (text := log_excess(job.files, log_limit, job.pid)) is not None:
            yield job, Stop("log_limit", text)
        elif job.group is None and (text := _memory_excess(job, table)) is not None:
            yield job, Stop("memory_limit", text)


def _memory_excess(job: Job, table: dict[int, process_tree.Process]) -> str | None:
    root = job.root or process_tree.identity(job.pid)
    if root is None:
        return None
    tree = [table[pid] for pid in process_tree.related(root, table)]
    used = process_tree.memory_against(job.memory, tree)
    job.sampled_peak = max(job.sampled_peak, used)
    if used <= job.memory:
        return None
    return f"{used / GIB:.2f} GB of memory in use where {job.memory / GIB:.2f} GB were asked for"
