"""The files of one attempt: their names, and how they are written whole.

This module travels to nodes as source: standard library only, as everything in this directory.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from posixpath import basename, dirname, join, split
from uuid import uuid4

JOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
"""Names of jobs; each is also a file name."""
WORKSPACE = "workspace"
"""The name of the working directory inside the directory of an attempt."""

_OF_SERVICE = re.compile(r"ccat-[0-9a-f]{32}-[1-9][0-9]{0,8}", re.ASCII)
"""The names that `lifecycle.models.job_name` makes. Repeated here because nodes do not have that module."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_PRIVATE = 0o600
"""Scripts hold the environment of their commands, which may be secret."""


@dataclass(frozen=True, slots=True)
class AttemptFiles:
    """The paths of one attempt, as the process that uses them finds them."""

    base: str
    """The directory of the attempt joined with the name of the job."""
    workspace: str
    logs: str
    """The directory of the logs."""

    @classmethod
    def of(cls, workspace_dir: str, job_name: str) -> AttemptFiles:
        """The files beside a workspace. Raises ValueError if the name of the job is not a file name.

        An attempt of the service has a directory of its own, with its logs in `logs`. Other jobs may share a directory
        or even a workspace, so the directory of their logs is named after the job.
        """
        if not JOB_NAME.fullmatch(job_name):
            raise ValueError(f"{job_name!r} cannot be the name of a job: letters, digits, '.', '_' and '-' are allowed")
        directory, workspace = split(workspace_dir.rstrip("/"))
        base = join(directory, job_name)
        own_directory = workspace == WORKSPACE and _OF_SERVICE.fullmatch(job_name) is not None
        logs = join(directory, "logs") if own_directory else base + ".logs"
        return cls(base, join(directory, workspace), logs)

    @property
    def directory(self) -> str:
        """The directory of the attempt: the root below which no link is followed."""
        return dirname(self.base)

    @property
    def job_name(self) -> str:
        return basename(self.base)

    @property
    def script(self) -> str:
        return self.base + ".sh"

    @property
    def secrets(self) -> str:
        """Secrets for the job, until it has started, or has ended if it may be started again."""
        return self.base + ".secrets"

    @property
    def record(self) -> str:
        return self.base + ".exit.json"

    @property
    def record_part(self) -> str:
        """The exit record while the job runs."""
        return self.base + ".exit.part"

    @property
    def claim(self) -> str:
        return self.base + ".claim"

    @property
    def starts(self) -> str:
        """Written by each later start of a job that its scheduler has started again."""
        return self.base + ".starts"

    @property
    def cancel(self) -> str:
        """Present once a cancel was requested; holds the time of the request."""
        return self.base + ".cancel"

    @property
    def stdout(self) -> str:
        return join(self.logs, "stdout.log")

    @property
    def stderr(self) -> str:
        return join(self.logs, "stderr.log")


def write_once(path: str, data: bytes) -> bool:
    """Create a file with its whole content. Returns False if the file exists already. Raises OSError."""
    part = _written(path, data)
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
    return True


def replace_file(path: str, data: bytes) -> None:
    """Write a file, or replace it by a new one, in one step. Raises OSError."""
    part = _written(path, data)
    try:
        os.rename(part, path)
    except OSError:
        os.unlink(part)
        raise


def write_new(path: str, data: bytes) -> None:
    """Write a file as a new inode: a shell may be reading the old one. Cheaper than `replace_file` if there is none."""
    try:
        descriptor = os.open(path, _NEW, _PRIVATE)
    except FileExistsError:
        replace_file(path, data)
    else:
        _fill(descriptor, data, path)


def _written(path: str, data: bytes) -> str:
    directory, name = split(path)
    part = join(directory, f".{name}.{uuid4().hex}")
    _fill(os.open(part, _NEW, _PRIVATE), data, part)
    return part


def _fill(descriptor: int, data: bytes, path: str) -> None:
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)
