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
from ccat_workflow_manager.services.logs import LogLocation, LogPiece, Logs
from ccat_workflow_manager.threads import in_thread

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 1.0
_KEEP_ALIVE_SECONDS = 15.0
_MOST_LINES = 10_000
"""Requested of a backend that has only the end of a log, to find what is new in it."""
_ANCHOR = 4096
_PLACE = re.compile(r"([0-9]{1,5})((?:-[0-9]{1,18})+)", re.ASCII)
BOTH = "both"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a log begins. Without `attempt` it begins with the newest one, and goes on to those behind it."""

    streams: tuple[str, ...]
    offsets: tuple[int, ...]
    attempt: int | None = None
    only: bool = False
    """It ends with this attempt."""
    tail: int | None = None
    """With this many lines at the end."""

    @classmethod
    def of(cls, stream: str, attempt: int | None, tail: int | None, offset: int | None) -> Start:
        streams = ("stdout", "stderr") if stream == BOTH else (stream,)
        return cls(streams, (offset or 0,) * len(streams), attempt, attempt is not None, tail)

    def behind(self, place: str) -> Start:
        """The start behind the event with this id. Raises BadCursor."""
        match = _PLACE.fullmatch(place)
        offsets = tuple(int(each) for each in match[2][1:].split("-")) if match is not None else ()
        if match is None or len(offsets) != len(self.streams) or (self.only and int(match[1]) != self.attempt):
            raise BadCursor("this is not the id of an event of this log")
        return replace(self, attempt=int(match[1]), tail=None, offsets=offsets)

    def of_next(self, attempt: int) -> Start:
        """The beginning of a later attempt."""
        return replace(self, attempt=attempt, tail=None, offsets=(0,) * len(self.streams))


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

    def __init__(self, database: Database, logs: Logs, step_run_id: UUID, start: Start) -> None:
        self._database = database
        self._logs = logs
        self._step_run_id = step_run_id
        self._start = start
        self._location: LogLocation | None = None
        """That of the attempt that is read."""
        self._readers: list[_Reader] = []
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
        """The next pieces of the logs up to the attempt `last`."""
        events: list[bytes] = []
        location = self._location
        if location is None:
            location, events = self._open(replace(self._start, attempt=self._start.attempt or last))
        elif self._is_read and location.attempt < last:
            location, events = self._open(self._start.of_next(location.attempt + 1))
        elif location.job_id is None:  # it may have been submitted meanwhile
            location = self._logs.locate(self._step_run_id, location.attempt)
        self._location = location
        for reader in self._readers:
            text, follows = reader.piece(location)
            if not follows:
                events.append(_event("", kind="gap"))
            if text:
                kind = reader.stream if len(self._readers) > 1 else ""
                events.append(_event(text, kind=kind, place=self._place(location.attempt)))
        self.behind = not self._is_read or location.attempt < last
        return events

    @property
    def _is_read(self) -> bool:
        return all(reader.is_read for reader in self._readers)

    def _open(self, start: Start) -> tuple[LogLocation, list[bytes]]:
        location = self._logs.locate(self._step_run_id, start.attempt)
        parts = zip(start.streams, start.offsets, strict=True)
        self._readers = [_Reader(self._logs, stream, offset, start.tail) for stream, offset in parts]
        return location, [_event(str(location.attempt), kind="attempt")]

    def _place(self, attempt: int) -> str:
        """The id of the last event: what was read of each stream. Empty if only a backend has the log."""
        offsets = [reader.offset for reader in self._readers]
        return "" if None in offsets else "-".join(map(str, (attempt, *offsets)))

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
    """Reads one stream of one attempt piece by piece."""

    def __init__(self, logs: Logs, stream: str, offset: int, tail: int | None) -> None:
        self._logs = logs
        self._tail = tail
        self._shown = ""
        """What was read, if only the end of the log can be had."""
        self.stream = stream
        self.offset: int | None = offset if tail is None else None
        self.is_read = False
        """Up to its present end."""

    def piece(self, location: LogLocation) -> tuple[str, bool]:
        """The next piece, and whether it follows what was read before: a part of a log that grew fast may be gone."""
        begins, before = not self._shown, self.offset
        piece = self._read(location)
        text, follows = new_part(self._shown, piece.text)
        self.offset = piece.next_offset
        self._shown = piece.text if self.offset is None else ""
        self.is_read = self.offset is None or self.offset in (before, piece.size)
        return text, follows and not (begins and piece.truncated)

    def _read(self, location: LogLocation) -> LogPiece:
        if self.offset is not None:
            return self._logs.read(location, self.stream, offset=self.offset)
        lines = self._tail if not self._shown and self._tail is not None else _MOST_LINES
        return self._logs.read(location, self.stream, tail=lines)


def new_part(shown: str, text: str) -> tuple[str, bool]:
    """The part of `text`, the end of a log, that follows `shown`, its end at the time before; and whether it follows.

    Otherwise the log grew too fast, and a part between the two is missing.
    """
    if text.startswith(shown):
        return text[len(shown) :], True
    anchor = shown[-_ANCHOR:]
    at = text.rfind(anchor)
    if at >= 0:
        return text[at + len(anchor) :], True
    return text, False


def _event(data: str, *, kind: str = "", place: str = "") -> bytes:
    """One event. A line of an event ends at a carriage return as well, so that one becomes a new line."""
    lines = [f"id: {place}"] if place else []
    lines += [f"event: {kind}"] if kind else []
    lines += [f"data: {line}" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")
