"""Once a second: which running jobs have gone beyond their limits of log space and, without control group, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.logs import log_excess
from ccat_workflow_manager.hpc.attempt.process_tree import Process
from ccat_workflow_manager.hpc.supervisor.jobs import Job, Stop

_GIB = 1024**3


def broken_limits(jobs: Sequence[Job], log_limit: int) -> Iterator[tuple[Job, Stop]]:
    """The jobs that are to be stopped, and why."""
    processes = process_tree.table() if any(job.group is None for job in jobs) else {}
    for job in jobs:
        words = log_excess(job.files, log_limit)
        stop = Stop("log_limit", words) if words is not None else None
        if stop is None and job.group is None:
            stop = _memory(job, processes)
        if stop is not None:
            yield job, stop


def _memory(job: Job, processes: dict[int, Process]) -> Stop | None:
    """Memory that processes share is divided among them only when that makes the difference: it takes long to ask."""
    root = job.root or process_tree.identity(job.pid)
    if root is None:
        return None
    tree = process_tree.related(root, processes)
    used = process_tree.memory(processes[pid] for pid in tree)
    if used > job.memory:
        used = process_tree.fair_memory(tree)
    job.sampled_peak = max(job.sampled_peak, used)
    if used <= job.memory:
        return None
    words = f"{used / _GIB:.2f} GB of memory in use where {job.memory / _GIB:.2f} GB were asked for"
    return Stop("memory_limit", words)
