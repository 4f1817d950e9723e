"""All errors, sorted by who must act.

The docstring of a class is the default message of its instances, so it addresses the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from itertools import islice
from typing import ClassVar

from ccat_workflow_manager.failures import FailureReason

MAX_FAULTS = 100
_LONGEST_PATH = 500
_LONGEST_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Fault:
    """One error in an input: its path (`steps[1].depends_on[0]`) and what is wrong."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class WorkflowError(Exception):
    """Something went wrong in the workflow manager."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str | None = None) -> None:
        self.message = message or cleandoc(type(self).__doc__ or self.code)
        super().__init__(self.message)


# --- the caller must act --------------------------------------------------------------------------------------------


class RequestError(WorkflowError):
    """The request cannot be carried out as it is."""

    code = "request_error"
    http_status: ClassVar[int] = 400

    def __init__(self, message: str | None = None, faults: Iterable[Fault] = ()) -> None:
        self.faults = _bounded(faults)
        if message is None and self.faults:
            message = "; ".join(str(fault) for fault in self.faults)
        super().__init__(message)


def _bounded(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """The first faults, cut to a length for people: an answer must not be larger than its request."""
    found = [
        Fault(_cut(fault.path, _LONGEST_PATH), _cut(fault.message, _LONGEST_MESSAGE))
        for fault in islice(faults, MAX_FAULTS + 1)
    ]
    if len(found) > MAX_FAULTS:
        found[MAX_FAULTS:] = [Fault("", "there are more faults than are listed here")]
    return tuple(found)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class NotFound(RequestError):
    """Not found."""

    code = "not_found"
    http_status = 404


class Invalid(RequestError):
    """The input is not valid."""

    code = "invalid"
    http_status = 422


class Conflict(RequestError):
    """The request conflicts with the present state."""

    code = "conflict"
    http_status = 409


class LimitReached(Conflict):
    """A limit of the project is reached."""

    code = "limit_reached"


class Forbidden(RequestError):
    """You are not allowed to do this."""

    code = "forbidden"
    http_status = 403


# --- the backend failed ---------------------------------------------------------------------------------------------


class BackendError(WorkflowError):
    """The backend reported a problem."""

    code = "backend_error"

    def __init__(
        self, message: str | None = None, *, backend: str = "", command: Sequence[str] = (), output_tail: str = ""
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.command = tuple(command)
        self.output_tail = output_tail


class BackendRejected(BackendError):
    """The backend rejected the job: it can never run as requested."""

    code = "backend_rejected"

    def __init__(
        self,
        message: str | None = None,
        *,
        backend: str = "",
        command: Sequence[str] = (),
        output_tail: str = "",
        reason: FailureReason = FailureReason.REJECTED,
    ) -> None:
        super().__init__(message, backend=backend, command=command, output_tail=output_tail)
        self.reason = reason


class BackendUnavailable(BackendError):
    """The backend cannot be reached; the state of its jobs is unknown until it answers again."""

    code = "backend_unavailable"


class BackendConfused(BackendError):
    """The backend gave an unreadable answer, which is ignored."""

    code = "backend_confused"


class JobDeferred(BackendError):
    """The backend works but this job has to wait.

    A limit of the site is reached, or the result of an earlier submission is not known yet. Other jobs are submitted.
    """

    code = "job_deferred"
    concerns_all_alike: ClassVar[bool] = False
    """Every job with the same resources has to wait, too."""


# --- the work of one attempt ----------------------------------------------------------------------------------------


class AttemptError(WorkflowError):
    """The attempt failed; the reason decides whether it is retried."""

    code = "attempt_error"

    def __init__(self, reason: FailureReason, message: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class StagingError(AttemptError):
    """The files of the step could not be prepared."""

    code = "staging_error"


class OutputError(AttemptError):
    """The output of the step cannot be published as products."""

    code = "output_error"


class LeaseLost(WorkflowError):
    """Another worker has taken over this step run; the work done here is discarded."""

    code = "lease_lost"


class CancelRequested(WorkflowError):
    """A cancel of this step run was requested while a worker was working on it."""

    code = "cancel_requested"


# --- the operator must act ------------------------------------------------------------------------------------------


class ConfigurationError(WorkflowError):
    """The configuration is not valid; the process does not start."""

    code = "configuration_error"

    def __init__(self, message: str | None = None, faults: Sequence[Fault] = ()) -> None:
        self.faults = tuple(faults)
        if message is None and self.faults:
            message = "\n".join(f"  {fault}" for fault in self.faults)
        super().__init__(message)


class ServiceUnavailable(WorkflowError):
    """A service that this process needs (PostgreSQL, Redis, the API, a worker) does not answer."""

    code = "service_unavailable"
