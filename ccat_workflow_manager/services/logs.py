"""Logs for whoever asks: read here where the files can be seen, asked of a worker where they cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.core.errors import BackendError, NotFound
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs
from ccat_workflow_manager.execution.logs import read_log
from ccat_workflow_manager.hpc.base import HPCBackend

_ANSWER_SECONDS = 10


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

    def read(self, place: LogPlace, stream: str, lines: int | None) -> str:
        """The (last lines of the) log."""
        dirs = place.dirs(self._base_dir)
        if os.path.isdir(dirs.logs):
            return read_log(dirs, stream, tail=lines).text
        answer = self._doorbell.ask(
            place.backend, {"place": asdict(place), "stream": stream, "lines": lines}, _ANSWER_SECONDS
        )
        return str(answer)


class Answers:
    """What a worker answers when it is asked for files that only it can see."""

    def __init__(self, base_dir: str, backend: Callable[[str], HPCBackend]) -> None:
        self._base_dir = base_dir
        self._backend = backend

    def answer(self, question: Mapping[str, Any]) -> str:
        place, stream, lines = LogPlace(**question["place"]), question["stream"], question["lines"]
        dirs = place.dirs(self._base_dir)
        if os.path.isdir(dirs.logs):
            return read_log(dirs, stream, tail=lines).text
        if place.job_id is None:
            return ""
        try:
            return self._backend(place.backend).tail_logs(place.job_id, stream=stream, lines=lines or 10_000)
        except BackendError as error:
            return f"(the log cannot be read now: {error.message})\n"
