"""What the `concurrent` backend stores about its jobs: one ticket each, read by any process on the host.

The claim, the cancel request and the exit record of a job lie beside its workspace, as with every backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess, Identity
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.note_store import NoteStore


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job as it was submitted, and what became known of it later."""

    job_id: str
    workspace: str
    submitted_at: float
    owner: HostProcess
    """The worker in whose pool the job waits."""
    limits: Limits
    process: Identity | None = None
    """The first process of the job, once it runs."""
    abandoned: str | None = None
    """Why the worker ended the job without an exit record."""

    @property
    def files(self) -> AttemptFiles:
        return AttemptFiles.of(self.workspace, self.job_id)


class TicketStore(NoteStore[Ticket]):
    """The tickets of all jobs of one state directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__("concurrent", directory, asdict, _decode, ".ticket", private=True)

    def update(self, job_id: str, **changes: Any) -> None:
        """Change fields of a ticket that exists."""
        ticket = self.get(job_id)
        if ticket is not None:
            self.put(job_id, replace(ticket, **changes))


def _decode(data: Mapping[str, Any]) -> Ticket:
    process = data["process"]
    return Ticket(
        **{
            **data,
            "owner": HostProcess(**data["owner"]),
            "limits": Limits(**data["limits"]),
            "process": None if process is None else Identity(**process),
        }
    )
