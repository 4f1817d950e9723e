"""The one way in which services call a backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import BackendConfused, BackendError, JobDeferred, WorkflowError
from ccat_workflow_manager.hpc.base import HPCBackend, HPCJobInfo, JobRequest, JobSeen, LogStream, QueueStatus
from ccat_workflow_manager.lifecycle.models import Resources, parse_job_name

log = logging.getLogger(__name__)

R = TypeVar("R")


class BackendHandle:
    """A backend and its name.

    Every call goes through `_call`. It passes the failpoint of the call, and it raises BackendConfused in place of any
    exception that is not ours: a fault in a plug-in says nothing about a job.

    Calls that several services make for different purposes take the name of their failpoint as `point`.
    """

    def __init__(self, name: str, backend: HPCBackend) -> None:
        self.name = name
        self.capabilities = backend.capabilities
        self.runs_images = backend.runs_images
        self.submit_seconds = backend.submit_seconds
        self._backend = backend

    @classmethod
    def create(cls, name: str, factory: Callable[[str], HPCBackend]) -> BackendHandle:
        """The handle of the backend that `factory` makes. Raises BackendError."""
        return cls(name, _guarded(name, lambda: factory(name)))

    def full(self, resources: Resources, priority: int) -> JobDeferred | None:
        return self._call(None, lambda: self._backend.full(resources, priority))

    def submit_many(self, requests: Sequence[JobRequest]) -> Sequence[str | BackendError]:
        """One id or error for each request. An error of the whole call is the error of every request."""
        if not requests:
            return []
        try:
            return self._call("backend.submit", lambda: self._backend.submit_many(requests))
        except BackendError as error:
            return [error] * len(requests)

    def find(self, job_name: str, *, point: str) -> str | None:
        return self._call(point, lambda: self._backend.find(job_name))

    def get_statuses(self, job_ids: Sequence[str], *, point: str) -> dict[str, HPCJobInfo]:
        """The state of each of these jobs. An answer that leaves one out raises BackendConfused."""

        def ask() -> dict[str, HPCJobInfo]:
            infos = self._backend.get_statuses(job_ids)
            return {job_id: infos[job_id] for job_id in job_ids}

        return self._call(point, ask)

    def cancel_many(self, job_ids: Sequence[str], *, point: str) -> None:
        self._call(point, lambda: self._backend.cancel_many(job_ids))

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        """Let the backend forget finished jobs. It keeps them if it cannot do so now, which costs only space."""
        if not job_ids:
            return
        try:
            self._call("backend.forget", lambda: self._backend.cleanup_many(job_ids))
        except BackendError as error:
            log.warning("%s keeps %d finished jobs for now: %s", self.name, len(job_ids), error.message)

    def list_jobs(self) -> list[tuple[JobSeen, tuple[UUID, int] | None]]:
        """Every job that has not ended, with the step run and the attempt that its name stands for."""
        return self._call(
            "backend.list", lambda: [(job, parse_job_name(job.job_name)) for job in self._backend.list_jobs()]
        )

    def queue_status(self) -> list[QueueStatus]:
        return self._call(None, self._backend.queue_status)

    def tail_logs(self, job_id: str, *, stream: LogStream, lines: int) -> str:
        return self._call(None, lambda: self._backend.tail_logs(job_id, stream=stream, lines=lines))

    def _call(self, point: str | None, action: Callable[[], R]) -> R:
        return _guarded(self.name, action if point is None else lambda: failpoints.around(point, action))


def _guarded(name: str, action: Callable[[], R]) -> R:
    try:
        return action()
    except WorkflowError:
        raise
    except Exception as error:  # code of a plug-in
        log.exception("the backend %s raised an exception that the interface does not allow", name)
        raise BackendConfused(f"{name} failed in an unexpected way: {error!r}", backend=name) from error
