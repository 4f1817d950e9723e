"""What is written down about each job in `state_dir`: where its files are, and which scheduler was given it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.attempt.script import JobFiles, job_files
from ccat_workflow_manager.hpc.dask.watcher import base_of

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Note:
    """A job that was, or is about to be, handed to Dask."""

    job_name: str
    workspace: str
    scheduler: str
    """The id that the scheduler gave itself when it started."""
    submitted_at: float

    @property
    def files(self) -> JobFiles:
        return job_files(self.workspace, self.job_name)

    @property
    def base(self) -> str:
        return base_of(self.files)


class NoteStore:
    """The notes of all jobs, for all workers that share the directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "jobs"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error

    def write(self, note: Note) -> None:
        """Before the job is handed over; replaces the note of a try that came to nothing."""
        part = self.directory / f".{note.job_name}.{uuid4().hex}"
        try:
            part.write_text(json.dumps(asdict(note)), encoding="utf-8", errors="surrogateescape")
            part.replace(self.directory / note.job_name)
        except OSError as error:
            raise self._unavailable(error) from error

    def read(self, job_name: str) -> Note | None:
        if not _NAME.fullmatch(job_name):
            return None
        path = self.directory / job_name
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            if not self.directory.is_dir():
                raise BackendUnavailable(f"{self.directory} is gone", backend="dask") from None
            return None
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            return Note(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise BackendConfused(f"cannot read {path}: {error}", backend="dask", output_tail=text[:500]) from error

    def forget(self, job_name: str) -> None:
        if _NAME.fullmatch(job_name):
            try:
                os.unlink(self.directory / job_name)
            except FileNotFoundError:
                return
            except OSError as error:
                raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> BackendUnavailable:
        return BackendUnavailable(f"the dask backend cannot use {self.directory}: {error.strerror}", backend="dask")
