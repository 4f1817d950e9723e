"""The jobs of a supervisor, in memory and on disk.

On disk a job is `jobs/<id>.json` in the state directory, written once before the client hears that the job was taken,
and `jobs/<id>.stop` once it is being stopped. Everything else is read from the attempt itself: the part of the exit
record is there from the moment a job script runs, and the record when the job is over. So no file has to be written
when a job starts, and whoever takes over finds the truth in whatever moment the supervisor before was killed.

Nothing is flushed to the disk by force: jobs do not outlive the machine, and that they are gone is told by the boot id.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import Any

from ccat_workflow_manager.core.failures import FailureReason
from ccat_workflow_manager.core.job_script import JobFiles, job_files
from ccat_workflow_manager.hpc.process_tree import Identity
from ccat_workflow_manager.hpc.supervisor_cgroups import Group

_JOBS = "jobs"


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


@dataclass(frozen=True, slots=True)
class End:
    """How the job script ended, as far as anybody could see it. Times in seconds since the epoch."""

    exit_code: int | None
    signal: int | None = None
    started: float | None = None
    finished: float | None = None
    wall: float | None = None
    cpu: float | None = None
    peak: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """The most memory that a job has used, and who says so."""

    peak: int | None
    source: str
    oom_killed: bool


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
    files: JobFiles
    state: State = State.QUEUED

    # --- while it runs
    pid: int = 0
    root: Identity | None = None
    """Told from a later process with this pid; looked up when first needed."""
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
    end: End | None = None
    memory_used: Memory | None = None
    record: str | None = None
    """The exit record as text."""
    lost: tuple[FailureReason, str] | None = None
    """Why there is no exit record that could be believed."""


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
        files=job_files(item["workspace"], item["name"]),
    )


class Index:
    """The jobs on disk."""

    def __init__(self, state_dir: str) -> None:
        self._directory = os.path.join(state_dir, _JOBS)
        os.makedirs(self._directory, mode=0o700, exist_ok=True)

    def add(self, job: Job) -> None:
        """Raises OSError."""
        entry = {
            "id": job.id,
            "name": job.name,
            "workspace": job.workspace,
            "cpu": job.cpu_milli / 1000,
            "memory": job.memory,
            "time_limit": job.time_limit,
            "priority": job.priority,
            "submitted": job.submitted,
            "boot": job.boot,
        }
        self._write(self._path(job.id), entry)

    def add_stop(self, job_id: str, stop: Stop) -> None:
        """Raises OSError."""
        self._write(self._stop_path(job_id), [stop.by, stop.text])

    def remove(self, job_id: str) -> None:
        for path in (self._path(job_id), self._stop_path(job_id)):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def load(self, boot: str) -> Iterator[Job]:
        """All jobs, oldest first. What was cut short had not been promised to anybody, and is removed."""
        jobs = []
        for name in os.listdir(self._directory):
            job_id, _, kind = name.rpartition(".")
            if kind != "json":
                continue
            try:
                with open(os.path.join(self._directory, name), encoding="utf-8") as file:
                    job = new_job(json.load(file), boot)
            except (OSError, ValueError, KeyError, TypeError):
                with suppress(OSError):
                    os.unlink(os.path.join(self._directory, name))
                continue
            job.stop = self._load_stop(job_id)
            jobs.append(job)
        jobs.sort(key=lambda job: job.submitted)
        yield from jobs

    def _load_stop(self, job_id: str) -> Stop | None:
        try:
            with open(self._stop_path(job_id), encoding="utf-8") as file:
                by, text = json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            return Stop("cancel", "the request to stop this job was cut short")
        return Stop(str(by), str(text))

    def _path(self, job_id: str) -> str:
        return f"{self._directory}/{job_id}.json"

    def _stop_path(self, job_id: str) -> str:
        return f"{self._directory}/{job_id}.stop"

    @staticmethod
    def _write(path: str, value: Any) -> None:
        data = json.dumps(value).encode("ascii")
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            written = os.write(file, data)
        finally:
            os.close(file)
        if written != len(data):
            os.unlink(path)
            raise OSError(28, "No space left on device", path)


# --- what a job script has left so far -------------------------------------------------------------------------------


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


def read_part(files: JobFiles) -> Part | None:
    """None if no job script has ever claimed this attempt. Raises OSError if that cannot be told."""
    try:
        with open(files.record_part, encoding="utf-8") as file:
            text = file.read()
            modified = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    for whole in (text, text + "}"):
        try:
            data = json.loads(whole)
            return Part(int(data["pid"]), float(data["began"]), data.get("exit_code"), modified)
        except (ValueError, KeyError, TypeError):
            continue
    return Part(None, None, None, modified)


def claim(files: JobFiles) -> bool:
    """Claim the attempt, so that no job script will ever run its command; False if one has done so. Raises OSError."""
    try:
        os.close(os.open(files.record_part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True


def publish(files: JobFiles, text: str) -> None:
    """Make the part the record, whole and at once. Raises OSError.

    The part is overwritten, not replaced: that takes a single write, also on a disk that has become full, and neither a
    new file nor the removal of the old one.
    """
    file = os.open(files.record_part, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        # Blanks, lest anything of a longer part remains.
        os.write(file, text.encode("utf-8").ljust(511) + b"\n")
    finally:
        os.close(file)
    os.rename(files.record_part, files.record)


def read_record(files: JobFiles) -> tuple[str, float] | None:
    """The text of the record and when it was written; None if there is none. Raises OSError and UnicodeDecodeError."""
    try:
        with open(files.record, encoding="utf-8") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
