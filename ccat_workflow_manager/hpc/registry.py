"""Backends by name. Each is loaded by its entry point, ours and those of plug-ins alike.

    from ccat_workflow_manager.hpc import registry

    registry.list_backends()                  # {"local": Availability(True), "kubernetes": Availability(False, ...)}
    backend = registry.create("local", max_cpu=4)

A backend is imported when it is first used. If the distribution of an entry point has an extra of the same name and a
package of that extra is not installed, the backend is unavailable and is not imported.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any

from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc.base import Availability, HPCBackend
from ccat_workflow_manager.json_values import similar
from ccat_workflow_manager.settings.backends import IMPORT_ERRORS, declaration_of, distribution_name, registered
from ccat_workflow_manager.settings.model import specs_of

SettingsOf = Callable[[str], Mapping[str, Any]]
"""Gives the settings of the backend with this name: some of them decide whether it is available."""

DETECTION_ORDER = ("slurm", "pbs", "kubernetes", "local")
"""Other backends are chosen only by name."""

_REQUIRED = ("submit", "get_status", "cancel", "get_logs")


class UnknownBackend(ConfigurationError):
    """No backend is registered under this name."""

    code = "unknown_backend"


class InvalidBackend(ConfigurationError):
    """The entry point of this name does not lead to a backend."""

    code = "invalid_backend"


class UnusableBackend(BackendUnavailable):
    """The backend cannot be used here."""

    def __init__(self, name: str, availability: Availability) -> None:
        hint = f"; try: {availability.installation_hint}" if availability.installation_hint else ""
        super().__init__(f"the backend {name} cannot be used here: {availability.reason}{hint}", backend=name)
        self.availability = availability


def names() -> list[str]:
    """The names of all registered backends."""
    return sorted(registered())


def list_backends(settings: SettingsOf = lambda name: {}) -> dict[str, Availability]:
    """Whether each registered backend can be used here; a broken one is listed with the error."""
    return {name: _availability(entry, settings(name)) for name, entry in sorted(registered().items())}


def get_class(name: str) -> type[HPCBackend]:
    """The class registered under a name. Raises UnknownBackend, InvalidBackend, UnusableBackend."""
    return _load(_entry_point(name))


def create(name: str, **config: Any) -> HPCBackend:
    """A backend with this configuration. Raises UnusableBackend with the reason and what to install."""
    backend_class = _usable_class(name, config)
    _check_keywords(name, backend_class, config)
    return backend_class(**config)


def create_filtered(name: str, **config: Any) -> HPCBackend:
    """Like `create`, but only with those keywords that the backend has: for settings that are offered to all."""
    return create(name, **filtered(name, config))


def filtered(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords that the backend with this name has."""
    accepted, _, takes_all = _keywords(get_class(name))
    return {key: value for key, value in config.items() if takes_all or key in accepted}


def asks(name: str) -> bool:
    """Whether the backend with this name has something to ask in its `ping`."""
    return get_class(name).ping is not HPCBackend.ping


def gives_secrets(name: str) -> bool:
    """Whether jobs of this backend can have secrets. True if its class cannot be loaded here: a worker then decides."""
    try:
        capable = get_class(name).capabilities
    except (UnknownBackend, InvalidBackend, UnusableBackend):
        return True
    return capable.secrets != "none" or not capable.exit_record or not capable.executes


def detect(settings: SettingsOf = lambda name: {}) -> str:
    """The name of the best backend that can be used here: slurm, pbs, kubernetes, local, in this order."""
    entries = registered()
    reasons = []
    for name in DETECTION_ORDER:
        if name not in entries:
            continue
        availability = _availability(entries[name], settings(name))
        if availability.available:
            return name
        reasons.append(f"{name}: {availability.reason}")
    raise BackendUnavailable("no backend can be used here; " + ("; ".join(reasons) or "none is registered"))


# --- entry points ----------------------------------------------------------------------------------------------------


def _entry_point(name: str) -> metadata.EntryPoint:
    entries = registered()
    try:
        return entries[name]
    except KeyError:
        known = ", ".join(sorted(entries)) or "none (is the package installed?)"
        raise UnknownBackend(f"unknown backend {name!r}{_did_you_mean(name, entries)}; known are: {known}") from None


def _load(entry: metadata.EntryPoint) -> type[HPCBackend]:
    missing = _missing_requirements(entry)
    if missing:
        reason = f"not installed: {', '.join(missing)}"
        raise UnusableBackend(entry.name, Availability(False, reason, _installation_hint(entry)))
    try:
        loaded = entry.load()
    except IMPORT_ERRORS as error:
        reason = f"cannot be imported: {error}"
        raise UnusableBackend(entry.name, Availability(False, reason, _installation_hint(entry))) from error
    _check_class(entry, loaded)
    backend_class: type[HPCBackend] = loaded
    if not backend_class.name:
        # Error messages and logs name the backend: a plug-in without a name has that of its entry point.
        backend_class.name = entry.name
    return backend_class


def _check_class(entry: metadata.EntryPoint, loaded: object) -> None:
    label = f"the backend {entry.name} ({entry.value}, from {distribution_name(entry)})"
    if not isinstance(loaded, type):
        raise InvalidBackend(f"{label} is not a class")
    lacking = [method for method in _REQUIRED if not callable(getattr(loaded, method, None))]
    lacking = lacking or sorted(getattr(loaded, "__abstractmethods__", ()))
    if lacking:
        raise InvalidBackend(f"{label} lacks {', '.join(lacking)}; a backend has at least {', '.join(_REQUIRED)}")
    if not issubclass(loaded, HPCBackend):
        raise InvalidBackend(f"{label} must be a subclass of {HPCBackend.__module__}.{HPCBackend.__qualname__}")


def _availability(entry: metadata.EntryPoint, config: Mapping[str, Any] | None = None) -> Availability:
    try:
        return _availability_of(_load(entry), config or {})
    except UnusableBackend as error:
        return error.availability
    except InvalidBackend as error:
        return Availability(False, error.message)
    except IMPORT_ERRORS as error:
        return Availability(False, f"is_available failed: {error}", _installation_hint(entry))


def _availability_of(backend_class: type[HPCBackend], config: Mapping[str, Any]) -> Availability:
    """Call `is_available` with those settings that it has as keywords."""
    wanted = inspect.signature(backend_class.is_available).parameters
    return backend_class.is_available(**{key: value for key, value in config.items() if key in wanted})


def _usable_class(name: str, config: Mapping[str, Any]) -> type[HPCBackend]:
    backend_class = get_class(name)
    availability = _availability_of(backend_class, config)
    if not availability.available:
        raise UnusableBackend(name, availability)
    return backend_class


# --- metadata of distributions ---------------------------------------------------------------------------------------


def _extras(entry: metadata.EntryPoint) -> list[str]:
    """The extras that an entry point needs: those it names, else the one of its own name."""
    if entry.extras:
        return list(entry.extras)
    if entry.dist is None:
        return []
    offered = {_normal(extra) for extra in entry.dist.metadata.get_all("Provides-Extra") or ()}
    return [entry.name] if _normal(entry.name) in offered else []


def _missing_requirements(entry: metadata.EntryPoint) -> list[str]:
    """The packages of the entry point's extra that are not installed, without importing anything."""
    wanted = {_normal(extra) for extra in _extras(entry)}
    if not wanted or entry.dist is None:
        return []
    required = [
        requirement.group(1)
        for line in entry.dist.requires or ()
        if (requirement := re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line))
        and wanted & {_normal(extra) for extra in re.findall(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)}
    ]
    return [package for package in required if not _installed(package)]


def _installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _installation_hint(entry: metadata.EntryPoint) -> str:
    distribution = entry.dist.name if entry.dist is not None else "ccat-workflow-manager"
    extras = ",".join(_extras(entry))
    return f"pip install '{distribution}[{extras}]'" if extras else f"pip install --force-reinstall '{distribution}'"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- configuration and messages --------------------------------------------------------------------------------------


def _keywords(backend_class: type[HPCBackend]) -> tuple[set[str], set[str], bool]:
    """The keywords that a backend is created with, the required ones, and whether it takes any keyword at all."""
    parameters = inspect.signature(backend_class).parameters.values()
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [parameter for parameter in parameters if parameter.kind in by_keyword]
    required = {parameter.name for parameter in named if parameter.default is inspect.Parameter.empty}
    declaration = declaration_of(backend_class)
    declared = {spec.keyword for spec in specs_of(declaration)} if declaration is not None else set()
    catches_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return {parameter.name for parameter in named} | declared, required, catches_all and not declared


def _check_keywords(name: str, backend_class: type[HPCBackend], config: Mapping[str, Any]) -> None:
    accepted, required, takes_all = _keywords(backend_class)
    unknown = [] if takes_all else [key for key in config if key not in accepted]
    if unknown:
        known = ", ".join(sorted(accepted)) or "none"
        raise ConfigurationError(
            f"the backend {name} has no setting {unknown[0]!r}{_did_you_mean(unknown[0], accepted)}; it has: {known}"
        )
    if missing := sorted(required - config.keys()):
        raise ConfigurationError(f"the backend {name} cannot be created without the setting {', '.join(missing)}")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = similar(word, known)
    return f" (did you mean {close!r}?)" if close is not None else ""
