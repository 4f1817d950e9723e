"""The functions that RQ calls. A message names a backend; the database holds what is to be done.

The ids in messages of the version before count for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccat_workflow_manager import watchdog
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.doorbell import BATCH, Bell
from ccat_workflow_manager.errors import ServiceUnavailable
from ccat_workflow_manager.services.queues import poll_queues

log = logging.getLogger(__name__)

COLLECT_BATCH = 50
"""Results that one worker collects at a time: it can take long, and other workers may be idle."""

_context: Context | None = None


def bind(context: Context) -> None:
    """Set the context of all tasks of this process."""
    global _context  # noqa: PLW0603  RQ calls functions by name, so their context is global
    _context = context


def launch(backend: str, ids: Sequence[str]) -> None:
    """Launch up to BATCH ready step runs, the most urgent first."""

    def work(context: Context) -> None:
        if context.launcher.launch(backend, BATCH) >= BATCH:
            context.doorbell.ring(Bell.LAUNCH, backend)

    _do(f"launch {backend}", work)


def notice(backend: str, ids: Sequence[str]) -> None:
    """Poll the jobs whose ends the backend has reported."""

    def work(context: Context) -> None:
        job_ids = context.doorbell.take_notices(backend)
        if job_ids:
            context.poller.poll_jobs(backend, job_ids)

    _do(f"notice {backend}", work)


def follow(backend: str, ids: Sequence[str]) -> None:
    """Poll all live jobs of the backend."""
    _do(f"follow {backend}", lambda context: context.poller.poll_all(backend))


def collect(backend: str, ids: Sequence[str]) -> None:
    """Collect up to COLLECT_BATCH results."""

    def work(context: Context) -> None:
        if context.collector.collect_waiting(backend, COLLECT_BATCH) == COLLECT_BATCH:
            context.doorbell.ring(Bell.COLLECT, backend)

    _do(f"collect {backend}", work)


def cancel(backend: str, ids: Sequence[str]) -> None:
    """Carry out the cancel requests for this backend."""
    _do(f"cancel {backend}", lambda context: context.canceller.cancel_wanted(backend))


def reap(backend: str, ids: Sequence[str]) -> None:
    """Stop the orphans of this backend."""
    _do(f"reap {backend}", lambda context: context.reaper.reap(backend))


def queues(backend: str, ids: Sequence[str]) -> None:
    """Poll the queues of this backend."""
    _do(f"queues {backend}", lambda context: poll_queues(context.worker_context, backend))


def remove(backend: str, ids: Sequence[str]) -> None:
    """Remove files of runs that are deleted."""

    def work(context: Context) -> None:
        if context.remover.remove(backend):
            context.doorbell.ring(Bell.REMOVE, backend)

    _do(f"remove {backend}", work)


def ask(question: Mapping[str, Any]) -> Any:
    """Answer a question about files that only a worker can see."""
    return _do("ask", lambda context: context.answer(question))


def _do(what: str, work: Callable[[Context], Any]) -> Any:
    """Log every error of a task. The sweep finds its step runs again when their leases have expired."""
    if _context is None:
        raise RuntimeError("tasks.bind was not called in this process")
    try:
        watchdog.report(what)
        with _context.heartbeat.busy():
            return work(_context)
    except ServiceUnavailable as error:
        log.warning("%s: %s", what, error.message)
    except Exception:  # a task
        log.exception("%s failed", what)
    return None
