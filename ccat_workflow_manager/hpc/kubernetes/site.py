"""The settings of a cluster, checked and parsed. An error names its setting."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml

from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.hpc.kubernetes.patch import merged
from ccat_workflow_manager.hpc.kubernetes.settings import KubernetesSettings

T = TypeVar("T")

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_LABEL_NAME = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII
)
_VOLUMES = "hostpath:/DIRECTORY, pvc:CLAIM, pvc:CLAIM/DIRECTORY or nfs:SERVER:/EXPORT, without '..'"


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory that workers and pods see under the same path."""

    name: str
    path: str
    source: Mapping[str, Any]
    """The volume as a pod spells it."""
    sub_path: str = ""
    """The directory in the volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the pods of all jobs have in common."""

    settings: KubernetesSettings
    base: Volume
    """PIPELINE_BASE_DIR, in which pods write."""
    others: Sequence[Volume] = ()
    """Directories of images and inputs, which pods read."""
    run_as: tuple[int, int] | None = None
    """User and group; None: those of the image."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    pod_patch: Mapping[str, Any] = field(default_factory=dict)
    grace_seconds: float
    disk_limit_gb: float = 0
    """0: none."""

    @property
    def native(self) -> bool:
        """The image of the step is the image of the pod."""
        return self.settings.mode == "native"


def site_of(
    settings: KubernetesSettings, *, base_dir: str, image_dir: str, grace_seconds: float, disk_limit_gb: float = 0
) -> Site:
    """Raises ConfigurationError, naming the setting."""
    native = settings.mode == "native"
    if not native and not settings.launcher_image:
        raise ConfigurationError(
            "KUBERNETES_LAUNCHER_IMAGE is empty: with KUBERNETES_MODE=apptainer it names the image that holds Apptainer"
        )
    base = _directory("PIPELINE_BASE_DIR", base_dir)
    others = _input_volumes(settings.input_volumes)
    if image_dir and not native:
        images = _directory("SIF_CACHE_DIR", image_dir)
        if os.path.commonpath([images, base]) != base:
            others.insert(0, _volume("SIF_VOLUME", settings.sif_volume, "images", images))
    return Site(
        settings=settings,
        base=_volume("VOLUME", settings.volume, "pipelines", base),
        others=others,
        run_as=_run_as(settings.run_as),
        node_selector=_structure("NODE_SELECTOR", settings.node_selector, labels, "a mapping from label to text") or {},
        tolerations=_structure("TOLERATIONS", settings.tolerations, objects, "a list of tolerations") or (),
        pod_patch=_patch(settings.pod_patch),
        grace_seconds=grace_seconds,
        disk_limit_gb=disk_limit_gb,
    )


def names(text: str) -> list[str]:
    """The items of a setting that is a list, separated by commas."""
    return [each.strip() for each in text.split(",") if each.strip()]


def _refused(setting: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"KUBERNETES_{setting}: {value!r} is not allowed; allowed: {allowed}")


def _directory(name: str, path: str) -> str:
    """A directory that pods see under the same path."""
    found = os.path.normpath(path)
    if not os.path.isabs(found) or ":" in found:
        raise ConfigurationError(f"{name} is {path!r}: Kubernetes mounts only absolute paths without ':'")
    return found


def _volume(setting: str, text: str, name: str, path: str) -> Volume:
    """The volume that a setting names; if it is empty, the directory `path` of each node."""
    kind, _, rest = (text or f"hostpath:{path}").partition(":")
    match kind:
        case _ if ".." in rest.split("/"):
            pass
        case "hostpath" if rest.startswith("/"):
            return Volume(name, path, {"hostPath": {"path": rest}})
        case "pvc":
            claim, _, directory = rest.partition("/")
            if LABEL.fullmatch(claim):
                return Volume(name, path, {"persistentVolumeClaim": {"claimName": claim}}, directory.strip("/"))
        case "nfs":
            server, _, export = rest.rpartition(":")
            if server and export.startswith("/"):
                return Volume(name, path, {"nfs": {"server": server, "path": export}})
    raise _refused(setting, text, _VOLUMES)


def _input_volumes(text: str) -> list[Volume]:
    found: dict[str, Volume] = {}
    for each in names(text):
        path, separator, volume = each.partition("=")
        if not separator:
            raise _refused("INPUT_VOLUMES", text, f"/DIR=VOLUME with commas between them, where VOLUME is {_VOLUMES}")
        directory = _directory("KUBERNETES_INPUT_VOLUMES", path.strip())
        found[directory] = _volume("INPUT_VOLUMES", volume.strip(), f"input-{len(found)}", directory)
    return list(found.values())


def _run_as(text: str) -> tuple[int, int] | None:
    if text == "image":
        return None
    user, _, group = text.partition(":")
    return (int(user), int(group or user)) if text else (os.geteuid(), os.getegid())


def _patch(text: str) -> dict[str, Any]:
    patch = _structure("POD_PATCH", text, mapping, "the part of a pod template that is to be merged in") or {}
    try:
        merged({"metadata": {}, "spec": {"containers": [], "volumes": []}}, patch)
    except ValueError as error:
        raise _refused("POD_PATCH", text, f"a strategic merge patch ({error})") from error
    return patch


# --- YAML or JSON in a setting ---------------------------------------------------------------------------------------


def _structure(setting: str, text: str, shape: Callable[[Any], T | None], allowed: str) -> T | None:
    """The parsed text; None if it is empty."""
    if not text.strip():
        return None
    try:
        found = shape(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise _refused(setting, text, f"{allowed}; it is no YAML: {' '.join(str(error).split())}") from error
    if found is None:
        raise _refused(setting, text, allowed)
    return found


def mapping(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None


def labels(value: Any) -> dict[str, str] | None:
    """A node selector, with names and values as Kubernetes takes them."""
    found = mapping(value)
    if found is None or not all(isinstance(each, str) and _LABEL_VALUE.fullmatch(each) for each in found.values()):
        return None
    return found if all(_LABEL_NAME.fullmatch(each) for each in found) else None


def objects(value: Any) -> list[dict[str, Any]] | None:
    """A list of mappings, or one mapping."""
    items = [value] if isinstance(value, dict) else value
    return items if isinstance(items, list) and all(mapping(item) is not None for item in items) else None
