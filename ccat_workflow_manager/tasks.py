"""What RQ calls. A message names a backend and rows to look at; the database knows what there is to do with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.doorbell import BATCH, Bell
from ccat_workflow_manager.errors import ServiceUnavailable
from ccat_workflow_manager.services.queues import look_at_queues

log = logging.getLogger(__name__)

COLLECT_BATCH = 50
"""Results that one worker holds at a time: collecting can take long, and others may be free."""

_context: Context | None = None


def bind(context: Context) -> None:
    """Give the tasks of this process what they work with."""
    global _context  # noqa: PLW0603  RQ calls functions by name: they find their context here
    _context = context


def launch(backend: str, ids: Sequence[str]) -> None:
    """Launch a batch of ready step runs, the most urgent first: those of the message, or more urgent ones."""

    def work(context: Context) -> None:
        if context.launcher.launch(backend, BATCH) == BATCH:
            context.doorbell.ring(Bell.LAUNCH, backend)

    _do(f"launch {backend}", work)


def notice(backend: str, ids: Sequence[str]) -> None:
    """Look at the jobs whose ends were noticed."""

    def work(context: Context) -> None:
        job_ids = context.doorbell.take_notices(backend)
        if job_ids:
            context.poller.follow_jobs(backend, job_ids)

    _do(f"notice {backend}", work)


def follow(backend: str, ids: Sequence[str]) -> None:
    """Ask for all jobs of the backend."""
    _do(f"follow {backend}", lambda context: context.poller.follow_all(backend))


def collect(backend: str, ids: Sequence[str]) -> None:
    """Collect a batch of results that wait for it."""

    def work(context: Context) -> None:
        if context.collector.collect_waiting(backend, COLLECT_BATCH) == COLLECT_BATCH:
            context.doorbell.ring(Bell.COLLECT, backend)

    _do(f"collect {backend}", work)


def cancel(backend: str, ids: Sequence[str]) -> None:
    """Carry out the cancel requests for this backend."""
    _do(f"cancel {backend}", lambda context: context.canceller.cancel_wanted(backend))


def reap(backend: str, ids: Sequence[str]) -> None:
    """Look for jobs of this backend that nobody waits for any more."""
    _do(f"reap {backend}", lambda context: context.reaper.reap(backend))


def queues(backend: str, ids: Sequence[str]) -> None:
    """See what the queues of this backend are like."""
    _do(f"queues {backend}", lambda context: look_at_queues(context.worker_context, backend))


def ask(question: Mapping[str, Any]) -> Any:
    """Answer a question about files that only a worker can see."""
    return _do("ask", lambda context: context.answers.answer(question))


def _do(what: str, work: Callable[[Context], Any]) -> Any:
    """The task entry: whatever goes wrong is logged here, and what was in hand is found again by the sweep."""
    if _context is None:
        raise RuntimeError("tasks.bind was not called in this process")
    try:
        with _context.busy(what):
            return work(_context)
    except ServiceUnavailable as error:
        log.warning("%s: %s", what, error.message)
    except Exception:
        log.exception("%s failed", what)
    return None
