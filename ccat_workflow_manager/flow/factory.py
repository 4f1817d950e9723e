"""Backends by name: those of the registry, and the service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ccat_workflow_manager.client import Client
from ccat_workflow_manager.client.both import finished
from ccat_workflow_manager.client.transport import Request
from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError, ServiceUnavailable, WorkflowError
from ccat_workflow_manager.flow.errors import BackendNotAvailable, FlowError
from ccat_workflow_manager.flow.execution import ExecutionBackend
from ccat_workflow_manager.flow.jobs import JobBackend, NoopExecutionBackend
from ccat_workflow_manager.flow.pool import PoolBackend, default_places, process_pool
from ccat_workflow_manager.flow.service import ServiceBackend
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import Availability

SERVICE = "service"
_OWN_KEYS = ("name", "image")
_SERVICE_KEYS = ("url", "token", "backend", "project", "max_workers")
_PROBE_SECONDS = 2.0


def list_available_backends() -> dict[str, dict[str, Any]]:
    """For each backend whether it is available here; if not, the reason and what to install."""
    found = {**registry.list_backends(), SERVICE: _service_availability()}
    return {
        name: {
            "available": each.available,
            "reason": each.reason or None,
            "installation_hint": each.installation_hint or None,
        }
        for name, each in found.items()
    }


def _service_availability() -> Availability:
    try:
        with Client(patience=0) as client:
            finished(client.api.send(Request("GET", "/backends", {"limit": 1}, timeout=_PROBE_SECONDS)))
    except WorkflowError as error:
        return Availability(
            False, error.message, "start one with `ccat-wm up`, or give config={'url': ..., 'token': ...}"
        )
    return Availability(True)


async def create_backend(name: str, config: Mapping[str, Any] | None = None, **more: Any) -> ExecutionBackend:
    """A backend with this configuration: its settings, `name` for routing, and `image` where it runs images.

    Settings may also be given as arguments, and then win over those of `config`.

    Raises BackendNotAvailable with the available ones and what to install, and FlowError for a wrong setting.
    """
    try:
        settings = {**dict(config or {}), **more}
    except (TypeError, ValueError):
        raise FlowError(f"create_backend takes a name and a mapping of settings, not {config!r:.200}") from None
    if not isinstance(name, str):
        raise await _unavailable(name)
    own = {key: settings.pop(key) for key in _OWN_KEYS if key in settings}
    label = own.get("name") or name
    try:
        if name == "concurrent":
            return _concurrent(label, **settings)
        if name == "noop":
            return NoopExecutionBackend(label, **settings)
        if name == SERVICE:
            return await _service(label, own.get("image"), settings)
        # Some backends ask a program of their site whether they can be used.
        return await asyncio.to_thread(_job_backend, label, name, own.get("image"), settings)
    except (registry.UnknownBackend, registry.InvalidBackend, BackendUnavailable) as error:
        raise await _unavailable(name, error) from error
    except ConfigurationError as error:
        raise FlowError(f"the backend {name} cannot be created: {error.message}") from error


async def _service(name: str, image: str | None, settings: Mapping[str, Any]) -> ServiceBackend:
    unknown = sorted(settings.keys() - _SERVICE_KEYS)
    if unknown:
        raise FlowError(f"the backend service has no setting {unknown[0]!r}; it has: {', '.join(_SERVICE_KEYS)}")
    backend = ServiceBackend(name, image=image, **settings)
    try:
        await backend.connect()
    except ServiceUnavailable as error:
        raise await _unavailable(SERVICE, error) from error
    return backend


def _job_backend(label: str, name: str, image: str | None, settings: Mapping[str, Any]) -> JobBackend:
    # The image of the tasks is also that of the jobs where a backend has a setting of this name.
    of_jobs = {} if image is None else registry.filtered(name, {"image": image})
    return JobBackend(label, registry.create(name, **of_jobs, **settings), image)


def _concurrent(
    name: str,
    *,
    max_workers: Any = None,
    executor_type: str | None = None,
    executor: str = "thread",
    **others: Any,
) -> PoolBackend:
    kind = executor_type or executor
    if kind not in ("thread", "process"):
        raise FlowError(f"executor_type of the backend concurrent is 'thread' or 'process', not {kind!r}")
    if max_workers is not None and (
        not isinstance(max_workers, int) or isinstance(max_workers, bool) or max_workers < 0
    ):
        raise FlowError(f"max_workers of the backend concurrent is a whole number, not {max_workers!r:.200}")
    places = max_workers or default_places()
    # Wrong settings are reported now, not when the first task with limits starts.
    registry.create("concurrent", max_workers=places, **others).close()

    def limited() -> JobBackend:
        return JobBackend(name, registry.create("concurrent", max_workers=places, **others))

    if kind == "thread":
        return PoolBackend(name, places, limited=limited)
    return PoolBackend(name, places, process_pool(places), limited, renewed=lambda: process_pool(places))


async def _unavailable(name: object, error: Exception | None = None) -> BackendNotAvailable:
    """The error for a backend that cannot be used. Looking at all others takes seconds where a library is imported."""
    return BackendNotAvailable(_why(name, error, await asyncio.to_thread(list_available_backends)))


def _why(name: object, error: Exception | None, found: Mapping[str, Mapping[str, Any]]) -> str:
    available = ", ".join(each for each, about in found.items() if about["available"]) or "none"
    known = found.get(name) if isinstance(name, str) else None
    if known is None:
        return f"there is no backend {name!r:.200}; available are: {available}"
    hint = f"; install or start it: {known['installation_hint']}" if known["installation_hint"] else ""
    reason = known["reason"] if known["reason"] and name != SERVICE else str(error)
    return f"the backend {name!r} is not available: {reason}; available are: {available}{hint}"
