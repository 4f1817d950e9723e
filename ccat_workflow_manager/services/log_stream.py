"""Logs as streams of server-sent events: what a step run prints, as it grows, until the step run is finished."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from uuid import UUID

from ccat_workflow_manager.db.queries.step_runs import step_run_state
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import NotFound, ServiceUnavailable, WorkflowError
from ccat_workflow_manager.lifecycle.states import FINISHED
from ccat_workflow_manager.services.feed import KEEP_ALIVE
from ccat_workflow_manager.services.feed_cursor import BadCursor
from ccat_workflow_manager.services.log_growth import new_part
from ccat_workflow_manager.services.logs import LogLocation, LogPiece, Logs
from ccat_workflow_manager.threads import in_thread

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 1.0
_KEEP_ALIVE_SECONDS = 15.0
_MOST_LINES = 10_000
"""Requested of a backend that has only the end of a log, to find what is new in it."""
_PLACE = re.compile(r"([0-9]{1,5})-([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream begins. Without `attempt` it begins with the newest one, and goes on to those behind it."""

    attempt: int | None = None
    only: bool = False
    """It ends with this attempt."""
    tail: int | None = None
    """With this many lines at the end."""
    offset: int = 0

    def behind(self, place: str) -> Start:
        """The start behind the event with this id. Raises BadCursor."""
        match = _PLACE.fullmatch(place)
        if match is None or (self.only and int(match[1]) != self.attempt):
            raise BadCursor("this is not the id of an event of this log")
        return replace(self, attempt=int(match[1]), tail=None, offset=int(match[2]))


class LogStreams:
    """Counts the streams of one process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.streams = 0
        self.closed = False

    def enter(self) -> None:
        """Take the place of one more stream. Raises ServiceUnavailable if there are too many."""
        if self.closed or self.streams >= self._most:
            raise ServiceUnavailable(f"this manager follows {self.streams} logs, its most (EVENT_STREAMS)")
        self.streams += 1

    def leave(self) -> None:
        self.streams -= 1

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        self.closed = True


class LogStream:
    """The log of one step run as it grows."""

    def __init__(self, database: Database, logs: Logs, step_run_id: UUID, stream: str, start: Start) -> None:
        self._database = database
        self._logs = logs
        self._step_run_id = step_run_id
        self._stream = stream
        self._start = start
        self._reader: _Reader | None = None
        self.behind = False
        """There is more to read at once."""
        self.status = ""
        """That of the step run when all of the log was read; empty: more may come."""

    def look(self) -> list[bytes]:
        """A piece of what is new since the last look, as events. Raises NotFound."""
        # The state is read before the log: a log that is read after the end is complete.
        with self._database.read() as unit:
            state = step_run_state(unit, self._step_run_id)
        if state is None:
            raise NotFound(f"there is no step run {self._step_run_id}")
        status, newest = state
        if (self._start.attempt or 0) > newest:
            raise NotFound(f"there is no attempt {self._start.attempt}")
        last = (self._start.attempt or newest) if self._start.only else newest
        events = self._events(last) if last else []
        if not self.behind and (status in FINISHED or last < newest):
            self.status = status
        return events

    def _events(self, last: int) -> list[bytes]:
        """The next piece of the logs up to the attempt `last`."""
        events = []
        if self._reader is None:
            self._reader = self._open(self._start.attempt or last, self._start)
        elif self._reader.is_read and self._reader.number < last:
            self._reader = self._open(self._reader.number + 1, Start())
            events = [_event(str(self._reader.number), kind="attempt")]
        events += self._reader.piece()
        self.behind = not self._reader.is_read or self._reader.number < last
        return events

    def _open(self, number: int, start: Start) -> _Reader:
        return _Reader(self._logs, self._logs.locate(self._step_run_id, number), self._stream, start)

    async def texts(self, first: list[bytes], streams: LogStreams) -> AsyncGenerator[bytes, None]:
        """The text of the stream, beginning with the events of the first look."""
        events, pause, sent_at = first, _FIRST_PAUSE, time.monotonic()
        while not streams.closed:
            if events:
                yield b"".join(events)
                pause, sent_at = _FIRST_PAUSE, time.monotonic()
            if self.status:
                yield _event(json.dumps({"status": self.status}), kind="end")
                return
            if time.monotonic() - sent_at > _KEEP_ALIVE_SECONDS:
                yield KEEP_ALIVE
                sent_at = time.monotonic()
            if not self.behind:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
            try:
                events = await in_thread(self.look)
            except ServiceUnavailable as error:
                log.warning("a log is followed on: %s", error.message)
                events = []
            except WorkflowError as error:  # the run was deleted, or its log is none that may be read
                yield _event(json.dumps({"status": None, "problem": error.message}), kind="end")
                return


class _Reader:
    """Reads the log of one attempt piece by piece."""

    def __init__(self, logs: Logs, location: LogLocation, stream: str, start: Start) -> None:
        self._logs = logs
        self._location = location
        self._stream = stream
        self._tail = start.tail
        self._offset: int | None = start.offset if start.tail is None else None
        self._shown = ""
        """What was read, if only the end of the log can be had."""
        self.number = location.attempt
        self.is_read = False
        """Up to its present end."""

    def piece(self) -> list[bytes]:
        """The next piece, if there is one."""
        piece, before = self._read(), self._offset
        text, _ = new_part(self._shown, piece.text)
        self._offset = piece.next_offset
        self._shown = piece.text if self._offset is None else ""
        self.is_read = self._offset is None or self._offset in (before, piece.size)
        return [_event(text, place="" if self._offset is None else f"{self.number}-{self._offset}")] if text else []

    def _read(self) -> LogPiece:
        if self._offset is not None:
            return self._logs.read(self._location, self._stream, offset=self._offset)
        lines = self._tail if not self._shown and self._tail is not None else _MOST_LINES
        return self._logs.read(self._location, self._stream, tail=lines)


def _event(data: str, *, kind: str = "", place: str = "") -> bytes:
    """One event. A line of an event ends at a carriage return as well, so that one becomes a new line."""
    lines = [f"id: {place}"] if place else []
    lines += [f"event: {kind}"] if kind else []
    lines += [f"data: {line}" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")
