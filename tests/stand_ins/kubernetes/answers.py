"""The errors of the API: a Status each, with the reasons, codes and messages that a real server gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.stand_ins.kubernetes.models import Object


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object, by the names that it has in paths, messages and bodies."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short_names: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`jobs.batch`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """`Job.batch`, `Pod`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def details(self, name: str, *, kind: bool = False) -> Object:
        details: Object = {"name": name}
        if self.group:
            details["group"] = self.group
        details["kind"] = self.kind if kind else self.plural
        return details


JOBS = Resource("jobs", "Job", "batch")
PODS = Resource("pods", "Pod", short_names=("po",))
EVENTS = Resource("events", "Event", short_names=("ev",))
NAMESPACES = Resource("namespaces", "Namespace", namespaced=False, short_names=("ns",))
NODES = Resource("nodes", "Node", namespaced=False, short_names=("no",))
RESOURCES = (JOBS, PODS, EVENTS, NAMESPACES, NODES)


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong with an object."""

    reason: str
    message: str
    field: str


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None, **metadata: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata: Object = dict(metadata)

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


def forbidden(resource: Resource, subresource: str, verb: str, namespace: str, name: str, user: str) -> ApiError:
    plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
    where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    quoted = f' "{name}"' if name else ""
    return ApiError(
        403,
        "Forbidden",
        f'{resource.qualified}{quoted} is forbidden: User "{user}" cannot {verb} resource "{plural}" '
        f'in API group "{resource.group}"{where}',
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
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {what} "{name}": {why}',
        resource.details(name, kind=kind),
    )


def stale(resource: Resource, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource, name, why)


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    faults = [f"{cause.field}: {cause.message}" for cause in causes]
    told = faults[0] if len(faults) == 1 else f"[{', '.join(faults)}]"
    details = resource.details(name, kind=True)
    details["causes"] = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    return ApiError(422, "Invalid", f'{resource.qualified_kind} "{name}" is invalid: {told}', details)


def expired_version(asked: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def expired_continue(token: str) -> ApiError:
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    error = ApiError(410, "Expired", message)
    error.metadata = {"continue": token}
    return error


def success(resource: Resource, name: str, uid: str) -> Object:
    """What a deletion in the background answers."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {**resource.details(name), "uid": uid},
    }
