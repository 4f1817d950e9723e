"""What the `radical_pilot` backend writes down about its jobs, so that any process can follow and cancel them.

Small files in one directory, each put in place in one step:

- `<id>.ticket`  at submit: what is to be run, and which pilot it was handed to
- `<id>.start`   the script that the pilot starts
- `<id>.cancel`  when somebody wants it cancelled
- `<id>.end`     what RADICAL-Pilot had to say about a job that is over

And in the directory of the attempt, beside its exit record, what is settled on the node that runs it:

- `.claim`    the pilot that runs, or ran, the attempt; or `cancelled`, if nobody ever will
- `.stop`     the wish that the job be stopped, and why
- `.stopped`  why it was stopped, and `over` once none of its processes is left and there is no exit record
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkstemp
from typing import Any, TypeVar

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles

T = TypeVar("T")

BACKEND = "radical_pilot"
NOBODY = "cancelled"
"""In a claim: the attempt will never run."""
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
_KINDS = ("ticket", "start", "cancel", "end")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job as it was submitted."""

    job_id: str
    workspace: str
    cores: int
    gpus: int
    memory_mb: int
    limit_seconds: int
    priority: int
    submitted_at: float
    pilot: str

    @property
    def files(self) -> AttemptFiles:
        return AttemptFiles.of(self.workspace, self.job_id)

    @property
    def base(self) -> str:
        """The path of the attempt's files, all but their endings."""
        return self.files.script.removesuffix(".sh")


@dataclass(frozen=True, slots=True)
class End:
    """What RADICAL-Pilot says about a job that is over."""

    at: float
    text: str
    refused: bool = False
    """The pilot can never run it."""


class JobStore:
    """The files of all jobs in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error

    @staticmethod
    def is_job_id(text: str) -> bool:
        return _JOB_ID.fullmatch(text) is not None

    def path(self, job_id: str, kind: str) -> Path:
        return self.directory / f"{job_id}.{kind}"

    def job_ids(self) -> list[str]:
        """Of all tickets."""
        try:
            names = os.listdir(self.directory)
        except OSError as error:
            raise self._unavailable(error) from error
        ids = (name.removesuffix(".ticket") for name in names if name.endswith(".ticket"))
        return sorted(job_id for job_id in ids if self.is_job_id(job_id))

    def add(self, ticket: Ticket) -> bool:
        """False if there is a ticket of that id already."""
        return self._write_first(ticket.job_id, "ticket", asdict(ticket))

    def replace(self, ticket: Ticket) -> None:
        with self._whole_file(asdict(ticket)) as temporary:
            os.replace(temporary, self.path(ticket.job_id, "ticket"))

    def ticket(self, job_id: str) -> Ticket | None:
        return self._read(job_id, "ticket", lambda data: Ticket(**data)) if self.is_job_id(job_id) else None

    def set_cancelled(self, job_id: str, at: float) -> None:
        self._write_first(job_id, "cancel", {"at": at})

    def cancelled_at(self, job_id: str) -> float | None:
        return self._read(job_id, "cancel", lambda data: float(data["at"]))

    def set_end(self, job_id: str, end: End) -> None:
        self._write_first(job_id, "end", asdict(end))

    def end(self, job_id: str) -> End | None:
        return self._read(job_id, "end", lambda data: End(**data))

    def forget(self, job_id: str) -> None:
        """Remove what is here. The files beside the attempt stay: its claim keeps a late start from doing anything."""
        for kind in _KINDS:
            self.path(job_id, kind).unlink(missing_ok=True)

    def _read(self, job_id: str, kind: str, build: Callable[[dict[str, Any]], T]) -> T | None:
        path = self.path(job_id, kind)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError as error:
            if not self.directory.is_dir():
                raise self._unavailable(error) from error
            return None
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            return build(json.loads(text))
        except (ValueError, TypeError, LookupError) as error:
            raise BackendConfused(f"cannot read {path}: {error}", backend=BACKEND, output_tail=text[:500]) from error

    def _write_first(self, job_id: str, kind: str, data: Mapping[str, Any]) -> bool:
        """Write a whole file under its name, unless there is one; False if there is."""
        with self._whole_file(data) as temporary:
            try:
                os.link(temporary, self.path(job_id, kind))
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _whole_file(self, data: Mapping[str, Any]) -> Iterator[str]:
        try:
            descriptor, temporary = mkstemp(prefix=".", dir=self.directory)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(data, file)
            try:
                yield temporary
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> BackendUnavailable:
        return BackendUnavailable(f"{self.directory} cannot be used: {error.strerror or error}", backend=BACKEND)


# --- beside the attempt ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """Who got hold of an attempt first."""

    pilot: str
    """Its name; `NOBODY` if the attempt will never run, empty if it is being claimed at this moment."""
    node: str | None
    at: float


def claim_of(ticket: Ticket) -> Claim | None:
    """Who has claimed the attempt of this job. Raises OSError."""
    try:
        with open(ticket.base + ".claim", encoding="utf-8", errors="replace") as file:
            words = file.read(500).split()
            at = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    return Claim(words[0] if words else "", words[1] if len(words) > 1 else None, at)


def claim_for_nobody(ticket: Ticket) -> bool:
    """Make sure that the attempt never runs; False if somebody has claimed it. Raises OSError."""
    try:
        file = os.open(ticket.base + ".claim", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    with open(file, "w", encoding="ascii") as claim:
        claim.write(NOBODY + "\n")
    return True


def ask_to_stop(ticket: Ticket, why: str) -> None:
    """Tell the keeper of the job on its node; the first wish counts. Raises OSError."""
    part = f"{ticket.base}.stop.{os.getpid()}"
    with open(part, "w", encoding="ascii") as file:
        file.write(why + "\n")
    try:
        os.link(part, ticket.base + ".stop")
    except FileExistsError:
        return
    finally:
        os.unlink(part)


def stopped_of(ticket: Ticket) -> tuple[str | None, bool]:
    """Why the job was stopped, and whether it is over without an exit record. Raises OSError."""
    try:
        with open(ticket.base + ".stopped", encoding="ascii", errors="replace") as file:
            words = file.read(500).split()
    except FileNotFoundError:
        return None, False
    return next((word for word in words if word != "over"), None), "over" in words


def record_of(ticket: Ticket) -> str | None:
    """The exit record of the job, if there is one. Raises OSError."""
    try:
        with open(ticket.files.record, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None
