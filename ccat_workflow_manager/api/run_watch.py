"""Requests that wait for a run. They hold no thread, and one query at a time serves all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Mapping
from typing import Literal
from uuid import UUID

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.runs import RunVersion, run_versions
from ccat_workflow_manager.errors import Fault, Invalid, ServiceUnavailable, WorkflowError
from ccat_workflow_manager.threads import in_thread

log = logging.getLogger(__name__)

Until = Literal["finished", "changed"]

LONGEST_WAIT_SECONDS = 60.0
_MOST_WAITING = 2000
_FIRST_SECONDS, _INTERVAL_SECONDS = 0.01, 0.2
"""Pauses between queries: the first after a new request, since many runs are short, and the longest."""
_PAUSE_PER_QUERY = 5
"""Shortest pause, in durations of the last query."""
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)?", re.ASCII)


def wait_seconds(wait: str) -> float:
    """The time that a request waits at most. A longer one than LONGEST_WAIT_SECONDS is cut. Raises Invalid."""
    match = _DURATION.fullmatch(wait)
    if match is None:
        raise Invalid(faults=[Fault("wait", f"must be a time like 30s or 1m, at most {LONGEST_WAIT_SECONDS:.0f}s")])
    return min(float(match[1]) * _UNITS[match[2] or ""], LONGEST_WAIT_SECONDS)


class RunWatch:
    """Wakes the requests of one manager that wait for runs."""

    def __init__(self, context: Context, most: int = _MOST_WAITING) -> None:
        """`most` is the largest number of requests that wait at the same time."""
        self._context = context
        self._most = most
        self._waiting: dict[UUID, set[_Waiter]] = {}
        self._task: asyncio.Task[None] | None = None
        self._pause = _FIRST_SECONDS
        self._new = asyncio.Event()
        self._stopped = False

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return sum(map(len, self._waiting.values()))

    def stop(self) -> None:
        """Let every request that waits be answered now. May be called by a signal handler."""
        self._stopped = True

    async def wait(self, run_id: UUID, since: RunVersion, until: Until, seconds: float) -> None:
        """Return once the run is finished, or is no longer as it was `since`, or the time is up."""
        if self._stopped or seconds <= 0:
            return
        if self.waiting >= self._most:
            raise ServiceUnavailable(f"{self._most} requests wait for runs already; ask again without `wait`")
        waiter = _Waiter(since, until)
        self._waiting.setdefault(run_id, set()).add(waiter)
        self._pause = _FIRST_SECONDS
        self._new.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._wake(), name="run watch")
        try:
            await asyncio.wait([waiter.future], timeout=seconds)
        finally:
            self._waiting[run_id].discard(waiter)
            if not self._waiting[run_id]:
                del self._waiting[run_id]

    async def _wake(self) -> None:
        busy = 0.0
        while self._waiting:
            self._new.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new.wait(), max(self._pause, busy))
                await asyncio.sleep(max(self._pause, busy))  # a new request has made the pause shorter
            began = time.monotonic()
            try:
                found = await in_thread(self._versions, list(self._waiting))
            except WorkflowError as error:
                log.warning("requests that wait for runs wait on: %s", error.message)
            else:
                self._wake_those_due(found)
            busy = (time.monotonic() - began) * _PAUSE_PER_QUERY
            self._pause = min(self._pause * 2, _INTERVAL_SECONDS)

    def _wake_those_due(self, found: Mapping[UUID, RunVersion]) -> None:
        for run_id, waiters in self._waiting.items():
            for waiter in waiters:
                if (self._stopped or waiter.is_due(found.get(run_id))) and not waiter.future.done():
                    waiter.future.set_result(None)

    def _versions(self, run_ids: list[UUID]) -> dict[UUID, RunVersion]:
        with self._context.database.read() as unit:
            return run_versions(unit, run_ids)


class _Waiter:
    """One request that waits."""

    def __init__(self, since: RunVersion, until: Until) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._since = since
        self._until = until

    def is_due(self, now: RunVersion | None) -> bool:
        """Whether the request is to be answered. `now` is None if the run was deleted."""
        if now is None:
            return True
        return now.finished if self._until == "finished" else now != self._since
