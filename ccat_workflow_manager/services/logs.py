"""Logs for whoever asks: read here where the files can be seen, asked of a worker where they cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import BackendError, NotFound, ServiceUnavailable
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs
from ccat_workflow_manager.execution.logs import read_log
from ccat_workflow_manager.services.backend_handle import BackendHandle

_ANSWER_SECONDS = 10
_MOST_LINES = 10_000
"""Asked of a backend for a whole log."""


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where the log of one attempt is."""

    pipeline: str
    run_id: str
    step: str
    key: str
    attempt: int
    backend: str
    job_id: str | None

    def dirs(self, base_dir: str) -> AttemptDirs:
        return attempt_dirs(base_dir, self.pipeline, self.run_id, self.step, self.key, self.attempt)


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of a log; where the following one begins and how long the log is, both in bytes, where that is known.

    It is not where the files cannot be seen by a worker either, and only the backend has the end of the log.
    """

    text: str
    next_offset: int | None = None
    size: int | None = None
    truncated: bool = False
    """There is more before it that was asked for too."""


class Logs:
    """Reads the log of any attempt."""

    def __init__(self, database: Database, doorbell: Doorbell, base_dir: str) -> None:
        self._database = database
        self._doorbell = doorbell
        self._base_dir = base_dir

    def place(self, step_run_id: UUID, attempt: int | None = None) -> LogPlace:
        """Where the log of this (or the latest) attempt is."""
        with self._database.read() as unit:
            row = unit.execute(
                "SELECT r.pipeline, s.run_id, s.step, s.key, COALESCE(a.number, 0), s.backend, a.job_id"
                " FROM step_runs s JOIN runs r ON r.id = s.run_id LEFT JOIN attempts a ON a.step_run_id = s.id"
                " AND a.number = COALESCE(:attempt, s.attempt) WHERE s.id = :id",
                {"id": step_run_id, "attempt": attempt},
            ).first()
        if row is None:
            raise NotFound(f"there is no step run {step_run_id}")
        if row[4] == 0:
            raise NotFound(f"there is no attempt {attempt}" if attempt else "nothing has been started yet")
        return LogPlace(row[0], str(row[1]), row[2], row[3], row[4], row[5], row[6])

    def read(self, place: LogPlace, stream: str, *, tail: int | None = None, offset: int | None = None) -> LogPiece:
        """The last lines of the log, or what follows `offset`, or its beginning."""
        dirs = place.dirs(self._base_dir)
        if os.path.isdir(dirs.logs):
            return _seen(dirs, stream, tail, offset)
        question = {"place": asdict(place), "stream": stream, "lines": tail, "offset": offset}
        return LogPiece(**self._doorbell.ask(place.backend, question, _ANSWER_SECONDS))

    def whole(self, place: LogPlace, stream: str) -> tuple[LogPiece, Iterator[str]]:
        """All of the log as it is now: its first piece, and the texts of all pieces, read as they are asked for."""
        first = self.read(place, stream, offset=0)
        return first, self._texts(place, stream, first)

    def _texts(self, place: LogPlace, stream: str, first: LogPiece) -> Iterator[str]:
        yield first.text
        piece, at = first, 0
        # The end of a log may be half of a character, which is no progress.
        while piece.next_offset is not None and at < piece.next_offset < (first.size or 0):
            at = piece.next_offset
            piece = self.read(place, stream, offset=at)
            if piece.next_offset is None:
                raise ServiceUnavailable("the log was taken away while it was being read")
            yield piece.text


class Answers:
    """What a worker answers when it is asked for files that only it can see."""

    def __init__(self, base_dir: str, backend: Callable[[str], BackendHandle]) -> None:
        self._base_dir = base_dir
        self._backend = backend

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a LogPiece."""
        place, stream, lines = LogPlace(**question["place"]), question["stream"], question["lines"]
        dirs = place.dirs(self._base_dir)
        if os.path.isdir(dirs.logs):
            return asdict(_seen(dirs, stream, lines, question["offset"]))
        return asdict(self._told(place, stream, _MOST_LINES if lines is None else lines))

    def _told(self, place: LogPlace, stream: str, lines: int) -> LogPiece:
        """What the backend has of it, which is the end."""
        if place.job_id is None:
            return LogPiece("")
        try:
            text = self._backend(place.backend).tail_logs(place.job_id, stream=stream, lines=lines)
        except BackendError as error:
            return LogPiece(f"(the log cannot be read now: {error.message})\n")
        return LogPiece(text, truncated=lines == _MOST_LINES and text.count("\n") >= lines)


def _seen(dirs: AttemptDirs, stream: str, tail: int | None, offset: int | None) -> LogPiece:
    chunk = read_log(dirs, stream, tail=tail, offset=offset)
    return LogPiece(chunk.text, chunk.next_offset, chunk.size, chunk.truncated)
