"""Admission: which job may start now.

The waiting job of the highest priority, and among equals the one submitted first, starts as soon as its CPU and memory
are free. No other job overtakes it, even if that one would fit, so a large job is never starved. A job that asks for
more than the machine has is refused; if the limits were lowered after it was accepted, it runs alone.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count

from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.supervisor.jobs import Job, State


@dataclass(frozen=True, slots=True)
class Limits:
    """What the jobs of this machine may use together, and each."""

    cpu_milli: int
    memory: int
    kill_grace: float
    log_limit: int
    disk_limit: int = 0
    """0: none."""


class Refused(Exception):
    """A job can never run here."""


class Queue:
    """The jobs that wait, and the resources of those that run."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running = 0
        self.cpu_milli = 0
        self.memory = 0
        self._heap: list[tuple[int, int, Job]] = []
        self._numbers = count(1)
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def check(self, job: Job) -> None:
        """Raises Refused."""
        asked = []
        if job.cpu_milli > self.limits.cpu_milli:
            asked.append(f"{job.cpu_milli / 1000:g} CPUs where jobs may use {self.limits.cpu_milli / 1000:g}")
        if job.memory > self.limits.memory:
            asked.append(f"{job.memory / GIB:g} GB of memory where jobs may use {self.limits.memory / GIB:.4g} GB")
        if asked:
            raise Refused(f"the job asks for {' and '.join(asked)} on this machine")

    def put(self, job: Job, *, first: bool = False) -> None:
        """`first`: before all others of its priority."""
        job.state = State.QUEUED
        self._waiting += 1
        number = next(self._numbers)
        heapq.heappush(self._heap, (-job.priority, -number if first else number, job))

    def drop(self) -> None:
        """Count a job that waited and has changed its state."""
        self._waiting -= 1

    def take(self) -> Job | None:
        """The next job, if it may start now."""
        while self._heap:
            job = self._heap[0][2]
            if job.state is not State.QUEUED:
                heapq.heappop(self._heap)
            elif self._fits(job):
                heapq.heappop(self._heap)
                self._waiting -= 1
                return job
            else:
                return None
        return None

    def occupy(self, job: Job) -> None:
        self.running += 1
        self.cpu_milli += job.cpu_milli
        self.memory += job.memory

    def vacate(self, job: Job) -> None:
        self.running -= 1
        self.cpu_milli -= job.cpu_milli
        self.memory -= job.memory

    def why(self) -> str:
        """Why the next job does not run yet. The text changes only with the reason."""
        head = self._heap[0][2] if self._heap else None
        if head is not None and self.cpu_milli + head.cpu_milli <= self.limits.cpu_milli:
            return f"capacity: {self.memory / GIB:.1f} of {self.limits.memory / GIB:.1f} GB of memory in use"
        return f"capacity: {self.cpu_milli / 1000:g} of {self.limits.cpu_milli / 1000:g} CPUs in use"

    def _fits(self, job: Job) -> bool:
        if not self.running:
            return True
        return (
            self.cpu_milli + job.cpu_milli <= self.limits.cpu_milli and self.memory + job.memory <= self.limits.memory
        )
