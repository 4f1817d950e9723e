"""Reads the logs of attempts: from the files, or through a worker where this process cannot see the files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.queries.step_runs import find_attempt
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import BackendError, NotFound, ServiceUnavailable
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs
from ccat_workflow_manager.execution.logs import read_log
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.questions import Questions

_MOST_LINES = 10_000
"""Requested from a backend for a whole log."""


@dataclass(frozen=True, slots=True)
class LogLocation:
    """Identifies the log of one attempt, for its files and for its backend."""

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
    """A piece of a log. `next_offset` is the offset of the next piece, `size` the length of the log, both in bytes.

    Both are None if the text comes from the backend, which has only the end of the log.
    """

    text: str
    next_offset: int | None = None
    size: int | None = None
    truncated: bool = False
    """True if the text begins later than requested."""


class Logs:
    """Reads logs in the manager."""

    def __init__(self, database: Database, questions: Questions, base_dir: str) -> None:
        self._database = database
        self._questions = questions
        self._base_dir = base_dir

    def locate(self, step_run_id: UUID, attempt: int | None = None) -> LogLocation:
        """The location of the log of an attempt, by default the newest."""
        with self._database.read() as unit:
            found = find_attempt(unit, step_run_id, attempt)
        if found is None:
            raise NotFound(f"there is no step run {step_run_id}")
        if found.number == 0:
            raise NotFound(f"there is no attempt {attempt}" if attempt else "no attempt has been started yet")
        return LogLocation(
            found.pipeline, str(found.run_id), found.step, found.key, found.number, found.backend, found.job_id
        )

    def read(self, log: LogLocation, stream: str, *, tail: int | None = None, offset: int | None = None) -> LogPiece:
        """Read the last `tail` lines, or the text after `offset`, or the beginning."""
        dirs = log.dirs(self._base_dir)
        if os.path.isdir(dirs.logs):
            return _read_files(dirs, stream, tail, offset)
        question = {"place": asdict(log), "stream": stream, "lines": tail, "offset": offset}
        return LogPiece(**self._questions.ask(log.backend, question))

    def whole(self, log: LogLocation, stream: str) -> tuple[LogPiece, Iterator[str]]:
        """Read the whole log up to its present end. Returns its first piece, and an iterator that reads all texts."""
        first = self.read(log, stream, offset=0)
        return first, self._texts(log, stream, first)

    def _texts(self, log: LogLocation, stream: str, first: LogPiece) -> Iterator[str]:
        yield first.text
        piece, at = first, 0
        # `next_offset` stays the same if the log ends within a multi-byte character.
        while piece.next_offset is not None and at < piece.next_offset < (first.size or 0):
            at = piece.next_offset
            piece = self.read(log, stream, offset=at)
            if piece.next_offset is None:
                raise ServiceUnavailable("the log was removed while it was being read")
            yield piece.text


class Answers:
    """Answers the log requests of managers in a worker, which sees the files or asks the backend."""

    def __init__(self, base_dir: str, backend: Callable[[str], BackendHandle]) -> None:
        self._base_dir = base_dir
        self._backend = backend

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a LogPiece."""
        log, stream, lines = LogLocation(**question["place"]), question["stream"], question["lines"]
        dirs = log.dirs(self._base_dir)
        if os.path.isdir(dirs.logs):
            return asdict(_read_files(dirs, stream, lines, question["offset"]))
        return asdict(self._read_backend(log, stream, _MOST_LINES if lines is None else lines))

    def _read_backend(self, log: LogLocation, stream: str, lines: int) -> LogPiece:
        if log.job_id is None:
            return LogPiece("")
        try:
            text = self._backend(log.backend).tail_logs(log.job_id, stream=stream, lines=lines)
        except BackendError as error:
            return LogPiece(f"(the log cannot be read now: {error.message})\n")
        return LogPiece(text, truncated=lines == _MOST_LINES and text.count("\n") >= lines)


def _read_files(dirs: AttemptDirs, stream: str, tail: int | None, offset: int | None) -> LogPiece:
    chunk = read_log(dirs, stream, tail=tail, offset=offset)
    return LogPiece(chunk.text, chunk.next_offset, chunk.size, chunk.truncated)
