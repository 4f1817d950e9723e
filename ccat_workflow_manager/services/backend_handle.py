"""The one way in which services call a backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from ccat_workflow_manager import failpoints, watchdog
from ccat_workflow_manager.errors import BackendConfused, BackendError, JobDeferred, WorkflowError
from ccat_workflow_manager.failures import FAILURES
from ccat_workflow_manager.hpc.base import HPCBackend, HPCJobInfo, JobRequest, JobSeen, LogStream, QueueStatus
from ccat_workflow_manager.json_values import shown
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
        capable = self.capabilities.secrets
        self.secrets = capable if self.capabilities.exit_record or capable != "none" else "files"
        """How jobs get secrets, as in `Capabilities.secrets`; with `none` they cannot."""
        self.submits_each = type(backend).submit_many is HPCBackend.submit_many
        """Jobs are submitted one by one, and each may take long."""
        self.awaits_ends = type(backend).await_ends is not HPCBackend.await_ends
        """It is close by, and tells the end of a job at once to the worker that waits for it."""
        self._asks_each = type(backend).get_statuses is HPCBackend.get_statuses
        self._backend = backend

    @classmethod
    def create(cls, name: str, factory: Callable[[str], HPCBackend]) -> BackendHandle:
        """The handle of the backend that `factory` makes. Raises BackendError."""
        return cls(name, _guarded(name, lambda: factory(name)))

    def full(self, resources: Resources, priority: int) -> JobDeferred | None:
        return self._call(None, "full", lambda: self._backend.full(resources, priority))

    def submit_many(self, requests: Sequence[JobRequest]) -> Sequence[str | BackendError]:
        """One id or error for each request. An error of the whole call is the error of every request."""
        if not requests:
            return []
        try:
            results: Sequence[object] = self._call(
                "backend.submit",
                "submit_many",
                lambda: list(self._backend.submit_many(requests)),
                self.submit_seconds + len(requests),
            )
        except BackendError as error:
            return [error] * len(requests)
        if len(results) != len(requests):
            return [_confused(self.name, f"{len(results)} results for {len(requests)} jobs")] * len(requests)
        return [each if isinstance(each, str | BackendError) else self._no_id(each) for each in results]

    def _no_id(self, result: object) -> BackendConfused:
        return _confused(self.name, f"{shown(result)} instead of the id of a job")

    def find(self, job_name: str, *, point: str) -> str | None:
        return self._call(point, "find", lambda: self._backend.find(job_name))

    def get_statuses(self, job_ids: Sequence[str], *, point: str) -> dict[str, HPCJobInfo | BackendConfused]:
        """The state of each of these jobs, or why the answer about it cannot be used.

        Raises BackendError if the backend does not answer, or if no part of its answer can be used.
        """
        infos: Mapping[str, object] = self._call(
            point,
            "get_statuses",
            lambda: self._ask_each(job_ids) if self._asks_each else dict(self._backend.get_statuses(job_ids)),
        )
        answers = {job_id: _checked(self.name, infos.get(job_id)) for job_id in job_ids}
        bad = [answer for answer in answers.values() if isinstance(answer, BackendConfused)]
        if bad and len(bad) == len(answers):
            raise bad[0]
        if bad:
            log.warning("%s gave %d answers that cannot be used: %s", self.name, len(bad), bad[0].message)
        return answers

    def await_ends(self, job_ids: Sequence[str], seconds: float) -> None:
        """Wait for the ends of short jobs, for `seconds` at the most."""
        try:
            self._call(None, "await_ends", lambda: self._backend.await_ends(job_ids, seconds))
        except BackendError as error:
            # It is no answer about a job. If the backend is away, the status call that follows says so.
            log.debug("%s could not wait for the ends of %d jobs: %s", self.name, len(job_ids), error.message)

    def _ask_each(self, job_ids: Sequence[str]) -> Mapping[str, object]:
        """Like the default of `get_statuses`. An error about one job is the answer about this job."""
        answers: dict[str, object] = {}
        for job_id in job_ids:
            watchdog.report()
            try:
                answers[job_id] = _guarded(self.name, lambda job_id=job_id: self._backend.get_status(job_id))  # type: ignore[misc]
            except BackendConfused as error:
                answers[job_id] = error
        return answers

    def cancel_many(self, job_ids: Sequence[str], *, point: str) -> None:
        self._call(point, "cancel_many", lambda: self._backend.cancel_many(job_ids), len(job_ids))

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        """Let the backend forget finished jobs. It keeps them if it cannot do so now, which costs only space."""
        if not job_ids:
            return
        try:
            self._call("backend.forget", "cleanup_many", lambda: self._backend.cleanup_many(job_ids), len(job_ids))
        except BackendError as error:
            log.warning("%s keeps %d finished jobs for now: %s", self.name, len(job_ids), error.message)

    def list_jobs(self) -> list[tuple[JobSeen, tuple[UUID, int] | None]]:
        """Every job that has not ended, with the step run and the attempt that its name stands for."""
        return self._call(
            "backend.list",
            "list_jobs",
            lambda: [(job, parse_job_name(job.job_name)) for job in self._backend.list_jobs()],
        )

    def queue_status(self) -> list[QueueStatus]:
        return self._call(None, "queue_status", self._backend.queue_status)

    def tail_logs(self, job_id: str, *, stream: LogStream, lines: int) -> str:
        return self._call(None, "tail_logs", lambda: self._backend.tail_logs(job_id, stream=stream, lines=lines))

    def _call(self, point: str | None, what: str, action: Callable[[], R], more_seconds: float = 0) -> R:
        """`more_seconds` is how long the call may take beyond HANG_SECONDS before the worker is taken as hung."""
        with watchdog.during(f"{what} of the backend {self.name}", more_seconds):
            return _guarded(self.name, action if point is None else lambda: failpoints.around(point, action))


def _checked(name: str, answer: object) -> HPCJobInfo | BackendConfused:
    """The state of a job as a backend returned it, or why it is none."""
    if isinstance(answer, BackendConfused):
        return answer
    if not isinstance(answer, HPCJobInfo):
        what = "nothing" if answer is None else f"a {type(answer).__name__}"
        return _confused(name, f"{what} instead of the state of a job")
    for field, kind in _KINDS.items():
        value = getattr(answer, field)
        if value is not None and not kind(value):
            return _confused(name, f"{field}={shown(value)}, which is not allowed")
    return answer


def _confused(name: str, what: str) -> BackendConfused:
    return BackendConfused(f"{name} failed in an unexpected way: it returned {what}", backend=name)


def _is_code(value: object) -> bool:
    return isinstance(value, int) and abs(value) < _LARGEST_CODE


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST_AMOUNT  # false for NaN


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_time(value: object) -> bool:
    return isinstance(value, datetime)


_LARGEST_CODE = 2**31
_LARGEST_AMOUNT = 1e15
_KINDS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("exit_code", "signal"), _is_code),
    **dict.fromkeys(("wall_time_seconds", "cpu_hours", "cpu_hours_allocated", "peak_memory_gb"), _is_amount),
    **dict.fromkeys(("message", "node", "warning"), _is_text),
    **dict.fromkeys(("started_at", "finished_at"), _is_time),
    "reason": lambda value: isinstance(value, str) and value in FAILURES,
}
"""What the columns of an attempt can hold."""


def _guarded(name: str, action: Callable[[], R]) -> R:
    try:
        return action()
    except WorkflowError:
        raise
    except Exception as error:  # a call of a backend, which may be the code of a plug-in
        log.exception("the backend %s raised an exception that the interface does not allow", name)
        raise BackendConfused(f"{name} failed in an unexpected way: {error!r}", backend=name) from error
