"""The pool of the `concurrent` backend: threads, or processes started fresh (a worker with threads cannot fork)."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from ccat_workflow_manager.hpc.concurrent import runner
from ccat_workflow_manager.hpc.concurrent.tickets import Ticket


class Pool:
    """Runs tickets, and knows which have not ended. The first job makes the executor."""

    def __init__(self, kind: str, places: int, directory: Path, on_end: Callable[[str, Future[None]], None]) -> None:
        self.kind = kind
        self.places = places
        self._directory = directory
        self._on_end = on_end
        self._executor: Executor | None = None
        self._run: Callable[[Ticket], Future[None]]
        self._let_go: Callable[[], None]
        self._futures: dict[str, Future[None]] = {}

    def submit(self, ticket: Ticket) -> None:
        if self._executor is None:
            self._open()
        try:
            future = self._run(ticket)
        except BrokenExecutor:
            # A process of the pool was killed from outside; such a pool takes nothing more.
            self._open()
            future = self._run(ticket)
        self._futures[ticket.job_id] = future
        future.add_done_callback(lambda done: self._ended(ticket.job_id, done))

    def future(self, job_id: str) -> Future[None] | None:
        return self._futures.get(job_id)

    def counts(self) -> tuple[int, int]:
        """The numbers of running and of waiting jobs."""
        futures = list(self._futures.values())
        running = sum(future.running() for future in futures)
        return running, sum(not future.done() for future in futures) - running

    def close(self) -> list[str]:
        """Give back threads and processes. Returns the jobs that were still waiting and will never run."""
        if self._executor is None:
            return []
        self._let_go()
        waiting = dict(self._futures)
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None
        return [job_id for job_id, future in waiting.items() if future.cancelled()]

    def _open(self) -> None:
        executor: Executor
        if self.kind == "process":
            context = multiprocessing.get_context("spawn")
            stopping = context.Event()
            executor = ProcessPoolExecutor(self.places, context, runner.start_pool_process, (stopping,))
            self._run = lambda ticket: executor.submit(runner.run_in_pool_process, ticket, self._directory)
            self._let_go = stopping.set
        else:
            stop = threading.Event()
            executor = ThreadPoolExecutor(self.places, "concurrent-backend")
            self._run = lambda ticket: executor.submit(runner.run, ticket, self._directory, stop)
            self._let_go = stop.set
        self._executor = executor

    def _ended(self, job_id: str, future: Future[None]) -> None:
        self._futures.pop(job_id, None)
        self._on_end(job_id, future)
