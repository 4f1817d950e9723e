"""From the texts of the settings to a `Site`."""

from __future__ import annotations

import os
from typing import Any

from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.hpc.kubernetes.patch import merged
from ccat_workflow_manager.hpc.kubernetes.site import (
    LABEL,
    Mode,
    Site,
    Volume,
    directory,
    fault,
    label_value,
    labels,
    mapping,
    objects,
    run_as,
    structure,
    volume,
)


def site_of(
    *, base_dir: str, volume: str, image_dir: str, image_volume: str, mode: str, namespace: str, **texts: Any
) -> Site:
    """Raises ConfigurationError, naming the setting."""
    try:
        chosen = Mode(mode)
    except ValueError:
        raise fault("MODE", mode, ", ".join(Mode)) from None
    if not LABEL.fullmatch(namespace):
        raise fault("NAMESPACE", namespace, "a DNS label")
    if chosen is Mode.APPTAINER and not texts["launcher_image"]:
        raise ConfigurationError(
            "KUBERNETES_LAUNCHER_IMAGE is empty: with KUBERNETES_MODE=apptainer it names the image that holds Apptainer"
        )
    base = directory("PIPELINE_BASE_DIR", base_dir)
    images = directory("SIF_CACHE_DIR", image_dir) if image_dir and chosen is Mode.APPTAINER else ""
    return Site(
        namespace=namespace,
        deployment=label_value("DEPLOYMENT", texts["deployment"]),
        mode=chosen,
        base_dir=base,
        base_volume=_volume("VOLUME", volume, base),
        launcher_image=texts["launcher_image"],
        image_dir=images,
        image_volume=_image_volume(image_volume, images, base),
        run_as=run_as(texts["run_as"]),
        privileged=texts["privileged"],
        service_account=texts["service_account"],
        pull_secrets=[each.strip() for each in texts["pull_secrets"].split(",") if each.strip()],
        priority_class=texts["priority_class"],
        node_selector=structure("NODE_SELECTOR", texts["node_selector"], labels, "a mapping from label to text") or {},
        tolerations=structure("TOLERATIONS", texts["tolerations"], objects, "a list of tolerations") or (),
        gpu_resource=texts["gpu_resource"],
        pod_patch=_patch(texts["pod_patch"]),
        margin_seconds=texts["margin_seconds"],
        pending_hours=texts["pending_hours"],
        ttl_seconds=texts["ttl_seconds"],
        grace_seconds=texts["grace_seconds"],
    )


def _volume(setting: str, text: str, path: str) -> Volume:
    """Without a word about it, the directory of the same name on each node."""
    return volume(setting, text or f"hostpath:{path}")


def _image_volume(text: str, images: str, base: str) -> Volume | None:
    inside = os.path.commonpath([images, base]) == base if images else True
    return None if inside else _volume("SIF_VOLUME", text, images)


def _patch(text: str) -> dict[str, Any]:
    patch = structure("POD_PATCH", text, mapping, "the part of a pod template that is to be merged in") or {}
    try:
        merged({"metadata": {}, "spec": {"containers": [], "volumes": []}}, patch)
    except ValueError as error:
        raise fault("POD_PATCH", text, f"a strategic merge patch ({error})") from error
    return patch
