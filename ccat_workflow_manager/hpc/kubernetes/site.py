"""What the settings say about a cluster: how its pods are to look. From text to values; a fault names its setting."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import yaml

from ccat_workflow_manager.errors import ConfigurationError

T = TypeVar("T")

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_RUN_AS = re.compile(r"(\d{1,10})(?::(\d{1,10}))?")


class Mode(StrEnum):
    """How the step runs in its pod."""

    APPTAINER = "apptainer"
    """The command as the service built it, with Apptainer in front, inside the launcher image."""
    NATIVE = "native"
    """The step's own OCI image is the image of the pod."""


@dataclass(frozen=True, slots=True)
class Volume:
    """Where a directory comes from: a source as a pod spells it, and the directory in it."""

    source: Mapping[str, Any]
    sub_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Everything about the pods of a cluster that is the same for all jobs."""

    namespace: str
    deployment: str
    mode: Mode
    base_dir: str
    """PIPELINE_BASE_DIR, as workers see it."""
    base_volume: Volume
    launcher_image: str = ""
    image_dir: str = ""
    image_volume: Volume | None = None
    run_as: tuple[int, int] | None = None
    privileged: bool = False
    service_account: str = ""
    pull_secrets: Sequence[str] = ()
    priority_class: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    gpu_resource: str
    pod_patch: Mapping[str, Any] = field(default_factory=dict)
    margin_seconds: float
    pending_hours: float
    ttl_seconds: int
    grace_seconds: float


def fault(setting: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"KUBERNETES_{setting}: {value!r} is not allowed; allowed: {allowed}")


def volume(setting: str, text: str) -> Volume:
    """`hostpath:/dir`, `pvc:CLAIM`, `pvc:CLAIM/dir/in/it`, `nfs:SERVER:/export`."""
    kind, _, rest = text.partition(":")
    allowed = "hostpath:/DIRECTORY, pvc:CLAIM, pvc:CLAIM/DIRECTORY or nfs:SERVER:/EXPORT"
    if ".." in rest.split("/"):
        raise fault(setting, text, f"{allowed}, without '..'")
    match kind:
        case "hostpath" if rest.startswith("/"):
            return Volume({"hostPath": {"path": rest}})
        case "pvc":
            claim, _, directory = rest.partition("/")
            if LABEL.fullmatch(claim):
                return Volume({"persistentVolumeClaim": {"claimName": claim}}, directory.strip("/"))
        case "nfs":
            server, _, export = rest.rpartition(":")
            if server and export.startswith("/"):
                return Volume({"nfs": {"server": server, "path": export}})
    raise fault(setting, text, allowed)


def directory(name: str, path: str) -> str:
    """A directory that pods are to see under the same path."""
    found = os.path.normpath(path)
    if not os.path.isabs(found) or ":" in found:
        raise ConfigurationError(f"{name} is {path!r}: Kubernetes mounts only absolute paths without ':'")
    return found


def structure(setting: str, text: str, kind: Callable[[Any], T | None], allowed: str) -> T | None:
    """YAML or JSON text; None if it is empty."""
    if not text.strip():
        return None
    try:
        found = kind(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise fault(setting, text, f"{allowed}; it is no YAML: {' '.join(str(error).split())}") from error
    if found is None:
        raise fault(setting, text, allowed)
    return found


def mapping(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None


def labels(value: Any) -> dict[str, str] | None:
    """What a node selector is made of."""
    found = mapping(value)
    if found is None or not all(isinstance(each, str) for each in found.values()):
        return None
    return found


def objects(value: Any) -> list[dict[str, Any]] | None:
    """A list of mappings, or one mapping."""
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(mapping(item) is not None for item in items):
        return None
    return items


def run_as(text: str) -> tuple[int, int] | None:
    """Under which user and group jobs run; those of the worker if nothing is said, those of the image for `image`."""
    if text == "image":
        return None
    if not text:
        return os.geteuid(), os.getegid()
    match = _RUN_AS.fullmatch(text)
    if match is None:
        raise fault("RUN_AS", text, "UID, UID:GID, `image`, or empty for the worker's own")
    return int(match[1]), int(match[2] or match[1])


def label_value(setting: str, text: str) -> str:
    if not _LABEL_VALUE.fullmatch(text):
        raise fault(setting, text, "63 letters, digits, '-', '_', '.' at most, with a letter or digit at both ends")
    return text
