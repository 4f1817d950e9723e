"""Small files about jobs, one for each job, shared by all processes that use the directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc.attempt.files import JOB_NAME, AttemptFiles, replace_file, write_once

T = TypeVar("T")

REMEMBERED = 20_000
"""The most jobs about which a process keeps something in a cache."""


@dataclass(frozen=True, slots=True)
class JobNote:
    """A job that was, or is about to be, submitted."""

    job_name: str
    workspace: str

    @property
    def files(self) -> AttemptFiles:
        return AttemptFiles.of(self.workspace, self.job_name)


class NoteStore(Generic[T]):
    """Values of one kind by job id, each in a file `ID + suffix`; several stores may share a directory.

    `encode` gives what JSON can hold, `decode` makes the value from that. An id that is not a file name has no value.
    Raises BackendUnavailable if the directory cannot be used, BackendConfused if a file cannot be decoded.
    """

    def __init__(
        self,
        backend: str,
        directory: Path,
        encode: Callable[[T], Any],
        decode: Callable[[Any], T],
        suffix: str = "",
        *,
        private: bool = False,
    ) -> None:
        """Make the directory. `private`: refuse one of another user. Raises BackendUnavailable, ConfigurationError."""
        self.directory = directory
        self._backend = backend
        self._encode = encode
        self._decode = decode
        self._suffix = suffix
        self._cache: BoundedCache[str, T] = BoundedCache(REMEMBERED)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = directory.stat().st_uid
        except OSError as error:
            raise self._unavailable(error) from error
        if private and owner != os.geteuid():
            raise ConfigurationError(f"the {backend} backend cannot use {directory}: it belongs to another user")

    def add(self, job_id: str, value: T) -> bool:
        """Write the value of a job once. Returns False if it has one already."""
        try:
            return write_once(self._path(job_id), self._data(value))
        except OSError as error:
            raise self._unavailable(error) from error

    def put(self, job_id: str, value: T) -> None:
        """Write the value of a job, or replace it."""
        try:
            replace_file(self._path(job_id), self._data(value))
        except OSError as error:
            raise self._unavailable(error) from error
        self._cache.pop(job_id)

    def cached(self, job_id: str) -> T | None:
        """Like `get`, but the value may be one that another process has replaced or removed since."""
        value = self._cache.get(job_id)
        if value is None and (value := self.get(job_id)) is not None:
            self._cache.put(job_id, value)
        return value

    def get(self, job_id: str) -> T | None:
        if not JOB_NAME.fullmatch(job_id):
            return None
        path = self._path(job_id)
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except FileNotFoundError as error:
            # Without its directory, a shared filesystem that is not mounted looks like a store that is empty.
            if not self.directory.is_dir():
                raise self._unavailable(error) from error
            return None
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            value = self._decode(json.loads(text))
        except (ValueError, TypeError, LookupError) as error:
            raise BackendConfused(
                f"cannot read {path}: {error}", backend=self._backend, output_tail=text[:500]
            ) from error
        if job_id in self._cache:
            self._cache.put(job_id, value)
        return value

    def remove(self, job_id: str) -> None:
        self._cache.pop(job_id)
        if JOB_NAME.fullmatch(job_id):
            try:
                os.unlink(self._path(job_id))
            except FileNotFoundError:
                return
            except OSError as error:
                raise self._unavailable(error) from error

    def ids(self) -> list[str]:
        """The ids of all jobs that have a value, sorted."""
        try:
            names = os.listdir(self.directory)
        except OSError as error:
            raise self._unavailable(error) from error
        ids = (name.removesuffix(self._suffix) for name in names if name.endswith(self._suffix))
        return sorted(job_id for job_id in ids if JOB_NAME.fullmatch(job_id))

    def _path(self, job_id: str) -> str:
        if not JOB_NAME.fullmatch(job_id):
            raise ValueError(f"{job_id!r} cannot be the id of a job")
        return f"{self.directory}/{job_id}{self._suffix}"

    def _data(self, value: T) -> bytes:
        return json.dumps(self._encode(value)).encode()

    def _unavailable(self, error: OSError) -> BackendUnavailable:
        why = error.strerror or str(error)
        return BackendUnavailable(
            f"the {self._backend} backend cannot use {self.directory}: {why}", backend=self._backend
        )
