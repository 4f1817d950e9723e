"""Every error of the product, sorted by who must act.

The docstring of a class is the message of an instance that was given none, so write it for the person who reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import cleandoc
from typing import ClassVar

from ccat_workflow_manager.failures import FailureReason


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with an input: where (`steps[1].depends_on[0]`) and what."""

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

    def __init__(self, message: str | None = None, faults: Sequence[Fault] = ()) -> None:
        self.faults = tuple(faults)
        if message is None and self.faults:
            message = "; ".join(str(fault) for fault in self.faults)
        super().__init__(message)


class NotFound(RequestError):
    """There is no such thing here."""

    code = "not_found"
    http_status = 404


class Invalid(RequestError):
    """The input is not valid."""

    code = "invalid"
    http_status = 422


class Conflict(RequestError):
    """The request contradicts the present state."""

    code = "conflict"
    http_status = 409


class Forbidden(RequestError):
    """This is not allowed to you."""

    code = "forbidden"
    http_status = 403


# --- the backend answered with trouble ------------------------------------------------------------------------------


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
    """The backend refused the job for good: it can never run as it was asked for."""

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
    """The backend cannot be reached now; nothing is known about its jobs until it answers again."""

    code = "backend_unavailable"


class BackendConfused(BackendError):
    """The backend answered something that cannot be read; nothing is concluded from it."""

    code = "backend_confused"


class JobDeferred(BackendError):
    """This one job has to wait, though the backend is well.

    A limit of the site keeps it out, or an earlier try to submit it is not settled yet. Others may go on.
    """

    code = "job_deferred"


# --- the work of one attempt ----------------------------------------------------------------------------------------


class AttemptError(WorkflowError):
    """One attempt cannot go on; the reason says whose fault it is and whether it is tried again."""

    code = "attempt_error"

    def __init__(self, reason: FailureReason, message: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class StagingError(AttemptError):
    """What the step needs could not be put in place."""

    code = "staging_error"


class OutputError(AttemptError):
    """What the step left behind cannot be taken as products."""

    code = "output_error"


class LeaseLost(WorkflowError):
    """Another worker has taken this step run over; what was done here is dropped."""

    code = "lease_lost"


class CancelRequested(WorkflowError):
    """Somebody asked to cancel this step run while it was being worked on."""

    code = "cancel_requested"


# --- the operator must act ------------------------------------------------------------------------------------------


class ConfigurationError(WorkflowError):
    """The configuration cannot be used; the process does not start."""

    code = "configuration_error"

    def __init__(self, message: str | None = None, faults: Sequence[Fault] = ()) -> None:
        self.faults = tuple(faults)
        if message is None and self.faults:
            message = "\n".join(f"  {fault}" for fault in self.faults)
        super().__init__(message)


class ServiceUnavailable(WorkflowError):
    """A service that this process needs (PostgreSQL, Redis, the API, a worker) does not answer."""

    code = "service_unavailable"
