"""What the `concurrent` backend writes down about its jobs, so that any process on the host can follow and cancel them.

Four small files per job in one directory, each written once, each by atomic rename or link:

- `<id>.ticket`  at submit: what is to be run, and by which worker
- `<id>.claim`   who got hold of the job first: the pool (`started`), or somebody who cancelled or dropped it before
- `<id>.process` once the job runs: its first process
- `<id>.cancel`  when somebody cancelled it while it ran

How the job ended is in its exit record.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import mkstemp
from typing import Any, TypeVar

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc.attempt.process_tree import Identity

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class Owner:
    """A worker process: where and since when it runs."""

    host: str
    boot: str
    pid: int
    started: int

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.started)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job as it was submitted."""

    job_id: str
    workspace: str
    script: str
    submitted_at: float
    owner: Owner
    time_limit_seconds: float
    memory_limit_bytes: int
    log_limit_bytes: int
    kill_grace_seconds: float


class Claimed(StrEnum):
    """What came first."""

    STARTED = "started"
    CANCELLED = "cancelled"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who got hold of a job first, and when."""

    what: Claimed
    at: float
    by: Identity


class TicketStore:
    """The files of all jobs in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = directory.stat().st_uid
        except OSError as error:
            raise ConfigurationError(f"the concurrent backend cannot use {directory}: {error.strerror}") from error
        if owner != os.geteuid():
            raise ConfigurationError(f"the concurrent backend cannot use {directory}: it belongs to another user")

    @staticmethod
    def is_job_id(text: str) -> bool:
        return _NAME.fullmatch(text) is not None

    def add(self, ticket: Ticket) -> bool:
        """False if there is a ticket of that id already."""
        return self._write_first(ticket.job_id, "ticket", asdict(ticket))

    def ticket(self, job_id: str) -> Ticket | None:
        return self._read(job_id, "ticket", lambda data: Ticket(**{**data, "owner": Owner(**data["owner"])}))

    def job_ids(self) -> list[str]:
        """Of all tickets."""
        try:
            with os.scandir(self.directory) as entries:
                names = [entry.name for entry in entries]
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error
        ids = (name.removesuffix(".ticket") for name in names if name.endswith(".ticket"))
        return [job_id for job_id in ids if self.is_job_id(job_id)]

    def claim(self, job_id: str, claim: Claim) -> bool:
        """False if somebody else was first."""
        return self._write_first(job_id, "claim", asdict(claim))

    def replace_claim(self, job_id: str, claim: Claim) -> None:
        """Write down that the one who was first has failed."""
        with self._whole_file(asdict(claim)) as temporary:
            os.replace(temporary, self._path(job_id, "claim"))

    def claimed(self, job_id: str) -> Claim | None:
        return self._read(
            job_id, "claim", lambda data: Claim(Claimed(data["what"]), float(data["at"]), Identity(**data["by"]))
        )

    def set_process(self, job_id: str, process: Identity) -> None:
        self._write_first(job_id, "process", asdict(process))

    def process(self, job_id: str) -> Identity | None:
        return self._read(job_id, "process", lambda data: Identity(**data))

    def set_cancelled(self, job_id: str, at: float) -> None:
        self._write_first(job_id, "cancel", {"at": at})

    def cancelled_at(self, job_id: str) -> float | None:
        return self._read(job_id, "cancel", lambda data: float(data["at"]))

    def forget(self, job_id: str) -> None:
        """Remove all files, the ticket first: who finds no ticket does not start the job."""
        for kind in ("ticket", "process", "cancel", "claim"):
            self._path(job_id, kind).unlink(missing_ok=True)

    def _path(self, job_id: str, kind: str) -> Path:
        return self.directory / f"{job_id}.{kind}"

    def _read(self, job_id: str, kind: str, build: Callable[[dict[str, Any]], T]) -> T | None:
        path = self._path(job_id, kind)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            if not self.directory.is_dir():
                raise self._unavailable("it is gone") from None
            return None
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error
        try:
            return build(json.loads(text))
        except (ValueError, TypeError, LookupError) as error:
            raise BackendConfused(
                f"cannot read {path}: {error}", backend="concurrent", output_tail=text[:500]
            ) from error

    def _write_first(self, job_id: str, kind: str, data: Mapping[str, Any]) -> bool:
        """Write a whole file under its name, unless there is one; False if there is."""
        with self._whole_file(data) as temporary:
            try:
                os.link(temporary, self._path(job_id, kind))
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _whole_file(self, data: Mapping[str, Any]) -> Iterator[str]:
        """A file of this content under a passing name, to be put in place in one step."""
        try:
            descriptor, temporary = mkstemp(prefix=".", dir=self.directory)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(data, file)
            try:
                yield temporary
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error

    def _unavailable(self, why: str) -> BackendUnavailable:
        return BackendUnavailable(f"the concurrent backend cannot use {self.directory}: {why}", backend="concurrent")
