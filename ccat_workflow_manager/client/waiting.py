"""Waits for the ends of runs: one by long polls, many by one stream of events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

from ccat_workflow_manager.client.answers import Run
from ccat_workflow_manager.client.connection import ApiRefused
from ccat_workflow_manager.client.follow import EVENT_STREAM, SILENT_SECONDS, messages
from ccat_workflow_manager.client.transport import Request, Transport
from ccat_workflow_manager.errors import ServiceUnavailable

LONGEST_WAIT_SECONDS = 30.0
_RECONNECT_SECONDS = 1.0
_FINISHED = "ccat.wm.run.finished"
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Deadline:
    """When waiting ends with TimeoutError. None: never."""

    timeout: float | None
    at: float | None

    @classmethod
    def after(cls, timeout: float | None) -> Deadline:
        return cls(timeout, None if timeout is None else time.monotonic() + timeout)

    def left(self, most: float) -> float:
        return most if self.at is None else min(most, max(0.0, self.at - time.monotonic()))

    @property
    def is_over(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at


async def watched(api: Transport, run_id: str, seconds: float, until: str = "finished") -> Run:
    """The run once it is finished or `changed`, or as it is after these seconds. One request."""
    wait = f"{max(seconds, 0.001):.3f}s"
    return Run(await api.json("GET", f"/runs/{quote(run_id, safe='')}", wait=wait, until=until))


async def finished(api: Transport, run_id: str, deadline: Deadline) -> Run:
    """The run once it is finished. Raises TimeoutError."""
    while True:
        found = await watched(api, run_id, deadline.left(LONGEST_WAIT_SECONDS))
        if found.is_finished:
            return found
        if deadline.is_over:
            raise TimeoutError(f"the run {found.id} is {found.status} after {deadline.timeout:g} s")


async def finished_runs(api: Transport, run_ids: Iterable[str], deadline: Deadline) -> AsyncGenerator[Run, None]:
    """Each of these runs as it finishes. Raises TimeoutError.

    Reads one stream, and goes on behind its last event when the connection breaks. Without streams it polls.
    """
    waiting = dict.fromkeys(run_ids)
    cursor = await _cursor_of_now(api) if len(waiting) > 1 else None
    if cursor is None:
        for run_id in waiting:
            yield await finished(api, run_id, deadline)
        return
    # What has finished before the cursor, the stream does not tell.
    for run_id in list(waiting):
        if (run := await watched(api, run_id, 0)).is_finished:
            del waiting[run_id]
            yield run
    stream = _Stream(api, cursor, deadline)
    while waiting and not stream.is_away:
        try:
            async for ended in stream.ends():
                if ended in waiting and (run := await watched(api, ended, 0)).is_finished:
                    del waiting[ended]
                    yield run
                if not waiting or deadline.is_over:
                    break
        except ApiRefused:
            break
        if waiting and deadline.is_over:
            named = ", ".join(list(waiting)[:_NAMED])
            raise TimeoutError(f"{len(waiting)} runs are not finished after {deadline.timeout:g} s, such as {named}")
    for run_id in waiting:
        yield await finished(api, run_id, deadline)


async def _cursor_of_now(api: Transport) -> str | None:
    """A cursor of the stream, before every later end. None: there is no stream."""
    try:
        async with api.stream(_request(None, SILENT_SECONDS)) as (response, _):
            cursor: str | None = response.headers.get("X-Event-Cursor")
            return cursor
    except (ApiRefused, ServiceUnavailable):
        return None


class _Stream:
    """The ends of runs, behind a cursor that moves on."""

    def __init__(self, api: Transport, cursor: str, deadline: Deadline) -> None:
        self._api = api
        self._cursor = cursor
        self._deadline = deadline
        self._answered = time.monotonic()

    @property
    def is_away(self) -> bool:
        """The service has not answered for as long as the client is patient."""
        return time.monotonic() - self._answered > self._api.patience

    async def ends(self) -> AsyncGenerator[str, None]:
        """The ids of runs that have finished, and empty ones as a sign of life. Ends with its connection."""
        seconds = max(0.1, self._deadline.left(SILENT_SECONDS))
        with suppress(ServiceUnavailable):  # the next call goes on behind the cursor
            async with self._api.stream(_request(self._cursor, seconds)) as (_, chunks):
                async for message in messages(chunks):
                    self._cursor = message.id or self._cursor
                    self._answered = time.monotonic()
                    yield "" if message.data is None else str(json.loads(message.data)["data"]["run_id"])
        await self._api.pause(self._deadline.left(_RECONNECT_SECONDS))


def _request(cursor: str | None, seconds: float) -> Request:
    query = {"type": _FINISHED, "after": cursor}
    return Request("GET", "/events", query, headers={"Accept": EVENT_STREAM}, timeout=seconds)
