"""Convert the arguments of `submit` from what scripts pass to the exact types that backends get.

A script may pass a `Path` for a path, a mapping for resources, and None for what does not exist. Every function raises
BackendRejected with a readable sentence for a value that has no meaning.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.lifecycle.models import Resources

_NUMBERS = ("cpu", "memory_gb", "time_hours")
_TEXTS = ("partition", "account")
_KNOWN = (*_NUMBERS, "gpu", *_TEXTS, "extra")


def command_of(value: object) -> tuple[str, ...]:
    """Validate the argument vector. A single text is rejected: it is never split."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _rejected(f"execution_command is a list of arguments, one text each, not {value!r:.200}")
    return tuple(word if isinstance(word, str) else _path("an argument of the command", word) for word in value)


def path_of(name: str, value: object) -> str:
    """A path as absolute text; empty for None."""
    if value is None:
        return ""
    path = value if isinstance(value, str) else _path(name, value)
    return path if not path or path.startswith("/") else os.path.abspath(path)


def name_of(value: object) -> str:
    if not isinstance(value, str):
        raise _rejected(f"job_name is a text, not {value!r:.200}")
    return value


def environment_of(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _rejected(f"environment_variables is a mapping of names to texts, not {value!r:.200}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise _rejected(f"the environment variable {name!r:.200} is to be a text, not {text!r:.200}")
    return value


def resources_of(value: object) -> Resources:
    """Resources from a mapping. None and missing fields stand for the defaults of a step."""
    if isinstance(value, Resources):
        return value
    if value is None:
        return Resources()
    if not isinstance(value, Mapping):
        raise _rejected(f"resource_requirements is a mapping or Resources, not {value!r:.200}")
    unknown = [str(name) for name in value if name not in _KNOWN]
    if unknown:
        raise _rejected(f"there are no resources {', '.join(unknown)}; known are {', '.join(_KNOWN)}")
    given: dict[str, Any] = {name: each for name, each in value.items() if each is not None}
    for name in (*_NUMBERS, "gpu"):
        if name in given:
            _check_number(name, given[name])
    for name in _TEXTS:
        if not isinstance(given.get(name, ""), str):
            raise _rejected(f"{name} is a text, not {given[name]!r:.200}")
    if not isinstance(given.get("extra", {}), Mapping):
        raise _rejected(f"extra is a mapping, not {given['extra']!r:.200}")
    return Resources(**given)


def _check_number(name: str, value: object) -> None:
    kinds = int if name == "gpu" else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not isfinite(value):
        kind = "a whole number" if name == "gpu" else "a number"
        raise _rejected(f"{name} is {kind}, not {value!r:.200}")
    if value < 0 or (value == 0 and name != "gpu"):
        raise _rejected(f"{name} cannot be {value!r}")


def _path(name: str, value: object) -> str:
    if not isinstance(value, bytes | os.PathLike):
        raise _rejected(f"{name} is a text or a path, not {value!r:.200}")
    return os.fsdecode(value)


def _rejected(why: str) -> BackendRejected:
    return BackendRejected(f"this job has an invalid argument: {why}")
