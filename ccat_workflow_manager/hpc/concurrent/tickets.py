"""What the `concurrent` backend stores about its jobs: one ticket each, read by any process on the host.

The claim, the cancel request and the exit record of a job lie beside its workspace, as with every backend.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.process_tree import Identity
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.note_store import NoteStore


@dataclass(frozen=True, slots=True)
class Owner:
    """A process of this service: a worker, or a process of its pool."""

    host: str
    boot: str
    pid: int
    started: int

    @classmethod
    def here(cls) -> Owner:
        """The present process."""
        me = process_tree.identity(os.getpid())
        assert me is not None, "this process is in the process table"
        return cls(platform.node(), process_tree.boot_id(), me.pid, me.started)

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The inverse of `text`. Returns None for anything else."""
        match text.split():
            case [host, boot, pid, started] if pid.isdecimal() and started.isdecimal():
                return cls(host, boot, int(pid), int(started))
            case _:
                return None

    @property
    def text(self) -> str:
        return f"{self.host} {self.boot} {self.pid} {self.started}"

    def same_boot(self, other: Owner) -> bool:
        """Whether both run on one host, without a restart of the host in between."""
        return (self.host, self.boot) == (other.host, other.boot)

    @property
    def running(self) -> bool:
        """Whether a process of this host runs; only for owners of the same boot."""
        return Identity(self.pid, self.started).running


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job as it was submitted, and what became known of it later."""

    job_id: str
    workspace: str
    submitted_at: float
    owner: Owner
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
            "owner": Owner(**data["owner"]),
            "limits": Limits(**data["limits"]),
            "process": None if process is None else Identity(**process),
        }
    )
