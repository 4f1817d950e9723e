"""The errors of the API: a Status each, with the reasons, codes and messages of a real server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.stand_ins.kubernetes.objects import Object, Resource


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong with an object."""

    reason: str
    message: str
    field: str


class ApiError(Exception):
    """An answer other than success."""

    def __init__(
        self, code: int, reason: str, message: str, details: Object | None = None, metadata: Object | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata or {}

    @property
    def body(self) -> Object:
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            status["details"] = self.details
        return {**status, "code": self.code}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource, plural: str, verb: str, namespace: str, name: str, user: str) -> ApiError:
    """`plural`: with its subresource, as `pods/log`."""
    quoted = f' "{name}"' if name else ""
    return ApiError(
        403,
        "Forbidden",
        f'{resource.qualified}{quoted} is forbidden: User "{user}" cannot {verb} resource "{plural}" '
        f'in API group "{resource.group}" in the namespace "{namespace}"',
        {key: value for key, value in resource.details(name).items() if value},
    )


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', resource.details(name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def already_exists(resource: Resource, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', resource.details(name))


def conflict(resource: Resource, name: str, why: str, *, kind: bool = False) -> ApiError:
    what = resource.qualified_kind if kind else resource.qualified
    message = f'Operation cannot be fulfilled on {what} "{name}": {why}'
    return ApiError(409, "Conflict", message, resource.details(name, kind=kind))


def stale(resource: Resource, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource, name, why)


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    lines = [f"{cause.field}: {cause.message}" for cause in causes]
    summary = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    details = resource.details(name, kind=True)
    details["causes"] = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    return ApiError(422, "Invalid", f'{resource.qualified_kind} "{name}" is invalid: {summary}', details)


def expired_version(asked: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def expired_continue(token: str) -> ApiError:
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    return ApiError(410, "Expired", message, metadata={"continue": token})


def unavailable(status: int) -> ApiError:
    """An answer of the 5xx kind."""
    if status == 503:
        return ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request", {})
    if status == 504:
        return ApiError(504, "Timeout", "Timeout: request did not complete within the allotted timeout", {})
    return ApiError(status, "InternalError", "Internal error occurred: etcdserver: request timed out", {})
