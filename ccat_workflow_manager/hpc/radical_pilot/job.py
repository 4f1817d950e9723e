"""What workers and pilot agents record about jobs, so that any process on any machine can follow and cancel them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.note_store import NoteStore

BACKEND = "radical_pilot"
JOB_SUFFIX = ".job"


@dataclass(frozen=True, slots=True)
class PilotJob:
    """A job as it was submitted."""

    job_id: str
    workspace: str
    cores: int
    gpus: int
    limits: Limits
    priority: int
    submitted_at: float
    pilot: str
    """The pilot that it was given to last."""

    @property
    def files(self) -> AttemptFiles:
        return AttemptFiles.of(self.workspace, self.job_id)

    @classmethod
    def decode(cls, data: dict[str, Any]) -> PilotJob:
        return cls(**{**data, "limits": Limits(**data["limits"])})


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """The end of a task that left no exit record, as RADICAL-Pilot reports it."""

    text: str
    refused: bool = False
    """The pilot can never run the task."""


class JobStore:
    """The jobs of a state directory, and the ends of their tasks."""

    def __init__(self, root: Path) -> None:
        directory = root / "jobs"
        self.jobs: NoteStore[PilotJob] = NoteStore(BACKEND, directory, asdict, PilotJob.decode, JOB_SUFFIX)
        self.ends: NoteStore[TaskEnd] = NoteStore(BACKEND, directory, asdict, lambda data: TaskEnd(**data), ".end")

    def forget(self, job_id: str) -> None:
        """Remove a job. Its claim stays in the directory of the attempt, so that a late start runs nothing."""
        self.ends.remove(job_id)
        self.jobs.remove(job_id)

    def path(self, job_id: str) -> str:
        """The file of a job, for the node that runs it."""
        return f"{self.jobs.directory}/{job_id}{JOB_SUFFIX}"
