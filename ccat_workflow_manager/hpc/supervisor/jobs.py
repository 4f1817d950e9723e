"""The jobs of a supervisor, and the files that their scripts leave.

The index (`index.py`) holds the jobs that were accepted and those that are to be stopped. Everything else is read from
the attempt: a job script writes the part of the exit record first, and the record when the job is over. So the
supervisor writes nothing when a job starts, and its successor finds the state of each job whenever it was killed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import Any

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles, write_once
from ccat_workflow_manager.hpc.attempt.opener import read_small
from ccat_workflow_manager.hpc.attempt.process_tree import Identity
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.supervisor.cgroups import Group


class State(Enum):
    QUEUED = auto()
    RUNNING = auto()
    ENDING = auto()
    """The job script is over, processes that it left behind are being ended."""
    FINISHED = auto()


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the supervisor ends a job."""

    by: str
    text: str


@dataclass(slots=True, eq=False)
class Job:
    """One job."""

    id: str
    name: str
    workspace: str
    cpu_milli: int
    memory: int
    time_limit: float
    priority: int
    submitted: float
    boot: str
    files: AttemptFiles
    state: State = State.QUEUED

    # --- while it runs
    pid: int = 0
    root: Identity | None = None
    """Distinguishes it from a later process with this pid; looked up when first needed."""
    adopted: bool = False
    """Started by an earlier supervisor: not a child of this one."""
    watch: int | None = None
    """The pidfd of an adopted job."""
    group: Group | None = None
    occupies: bool = False
    """Its CPU and memory are counted as used."""
    started: float = 0.0
    began: float = 0.0
    deadline: float = inf
    wake: float = inf
    """When to look after this job again, by the monotonic clock."""
    sampled_peak: int = 0

    # --- while it is stopped
    stop: Stop | None = None
    kill_at: float = inf
    pause: float = 0.0
    asked: set[int] = field(default_factory=set)
    """Processes that have got SIGTERM."""
    give_up_at: float = inf

    # --- when it is over
    end: ExitRecord | None = None
    """How its script ended, as far as that is known."""
    record: str | None = None
    """The exit record as text, complete."""
    ending: set[Identity] = field(default_factory=set)
    """Its other processes, which must end as well."""
    left: str | None = None
    """Its processes that SIGKILL does not end."""
    lost: tuple[FailureReason, str] | None = None
    """Why there is no exit record that can be used."""


def new_job(item: dict[str, Any], boot: str) -> Job:
    """A job as the client describes it. Raises KeyError, TypeError and ValueError for anything else."""
    return Job(
        id=str(item["id"]),
        name=str(item["name"]),
        workspace=str(item["workspace"]),
        cpu_milli=round(item["cpu"] * 1000),
        memory=int(item["memory"]),
        time_limit=float(item["time_limit"]),
        priority=int(item["priority"]),
        submitted=float(item.get("submitted") or time.time()),
        boot=str(item.get("boot", boot)),
        files=AttemptFiles.of(item["workspace"], item["name"]),
    )


# --- the files of a job script -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """The part of an exit record: from the first moment of the job script, complete at its last."""

    pid: int | None
    """None while the script is writing it, or after it could not."""
    began: float | None
    exit_code: int | None
    modified: float

    @property
    def complete(self) -> bool:
        return self.exit_code is not None


def read_part(files: AttemptFiles) -> Part | None:
    """The part of the record; None if no job script has claimed this attempt. Raises OSError."""
    found = read_small(files.record_part, root=files.directory)
    if found is None:
        return None
    for whole in (found.text, found.text + "}"):
        try:
            data = json.loads(whole)
            pid, began, code = int(data["pid"]), float(data["began"]), data.get("exit_code")
            if began >= 0:
                return Part(pid, began, None if code is None else int(code), found.modified)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return Part(None, None, None, found.modified)


def claim(files: AttemptFiles) -> bool:
    """Claim the attempt, so that no job script runs its command. Returns False if one has done so. Raises OSError."""
    return write_once(files.record_part, b"")
