"""The settings that backends bring: found through their entry points, without importing a backend.

A backend declares them in the module `settings` beside its own module, as the one subclass of `BackendSettings` there,
and names that class in its attribute `settings`. For a backend without such a module the attribute alone counts; it is
read only when a setting with the prefix of the backend is given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, TypeVar

from ccat_workflow_manager.errors import ConfigurationError, Fault
from ccat_workflow_manager.settings.model import SettingsModel, parse, refusal

GROUP = "ccat_workflow_manager.backends"

IMPORT_ERRORS = (
    ImportError,
    AttributeError,
    SyntaxError,
    NameError,
    TypeError,
    ValueError,
    LookupError,
    OSError,
    RuntimeError,
)
"""What importing a plug-in raises when it, or a library under it, is broken."""


class BackendSettings(SettingsModel):
    """Base of the settings of a backend. The field `y` is the setting `X_Y` of the backend `x`, and its keyword `y`."""


Own = TypeVar("Own", bound=BackendSettings)


@cache
def registered() -> Mapping[str, metadata.EntryPoint]:
    """The entry point of every installed backend, by name. Looking through all distributions takes 50 ms: once."""
    found: dict[str, metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=GROUP):
        first = found.setdefault(entry.name, entry)
        if first.value != entry.value:
            raise ConfigurationError(
                f"the backend {entry.name} is registered twice: as {first.value} by {distribution_name(first)} "
                f"and as {entry.value} by {distribution_name(entry)}; uninstall one of them"
            )
    return found


def distribution_name(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed distribution"


def prefix_of(backend: str) -> str:
    return backend.upper() + "_"


def declared(names: Collection[str] | None = None) -> dict[str, type[BackendSettings] | None]:
    """The settings class of every installed backend, None if it declares none.

    With `names` a backend without a module `settings` is imported only if one of these settings has its prefix. A
    backend that cannot be imported declares nothing here; the registry reports the reason.
    """
    found: dict[str, type[BackendSettings] | None] = {}
    for backend, entry in registered().items():
        wanted = names is None or any(name.startswith(prefix_of(backend)) for name in names)
        try:
            found[backend] = _beside(entry) or (declaration_of(entry.load()) if wanted else None)
        except IMPORT_ERRORS:
            found[backend] = None
    return found


def _beside(entry: metadata.EntryPoint) -> type[BackendSettings] | None:
    name = f"{entry.module.rpartition('.')[0]}.settings"
    if name.startswith(".") or find_spec(name) is None:
        return None
    module = import_module(name)
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
    found = [each for each in classes if issubclass(each, BackendSettings)]
    if len(found) > 1:
        raise ConfigurationError(f"{name} has {len(found)} subclasses of BackendSettings; one is expected")
    return found[0] if found else None


def declaration_of(backend_class: object) -> type[BackendSettings] | None:
    """The settings class that a backend names in its attribute `settings`."""
    found = getattr(backend_class, "settings", None)
    return found if isinstance(found, type) and issubclass(found, BackendSettings) else None


def settings_of(model: type[Own], backend: str, given: Mapping[str, Any]) -> Own:
    """The settings that a backend is created with; None means "not given".

    Raises ConfigurationError with every bad value.
    """
    faults: list[Fault] = []
    found = parse(model, prefix_of(backend), {key: value for key, value in given.items() if value is not None}, faults)
    if found is None:
        raise refusal(faults)
    return found
