"""From a request to the Job that is sent to the API server: values in, values out. Golden files in tests/golden."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from posixpath import dirname, join, relpath
from typing import Any

from ccat_workflow_manager.definition.image_names import oci_image
from ccat_workflow_manager.hpc.attempt import files as shared
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.kubernetes import site as checks
from ccat_workflow_manager.hpc.kubernetes.patch import merged
from ccat_workflow_manager.hpc.kubernetes.script import ATTEMPT_DIR, POD_VARIABLE, AttemptFiles
from ccat_workflow_manager.hpc.kubernetes.site import Mode, Site, Volume
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Mount, Resources

MANAGER = "ccat-workflow-manager"
MANAGER_LABEL = "app.kubernetes.io/managed-by"
DEPLOYMENT_LABEL = "app.kubernetes.io/instance"
JOB_LABEL = f"{MANAGER}/job"
"""On a pod: the name of its Job."""
NAME_ANNOTATION = f"{MANAGER}/job-name"
ATTEMPT_ANNOTATION = f"{MANAGER}/attempt"
"""Where the files of the attempt begin: its directory and the name of the job."""
CONTAINER = "step"
SELECTOR = f"{MANAGER_LABEL}={MANAGER}"

_DAY_OF_POD_FAILURE_POLICY = (1, 26)
_NAME_LENGTH = 63
_DIGEST = 16
_QUANTITY = re.compile(r"\d+(\.\d+)?([KMGTPE]i?|k|m)?")
NATIVE_SETTING = "KUBERNETES_MODE=native"
_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_EXTRA = ("node_selector", "priority_class", "resources", "tolerations")


def object_name(job_name: str) -> str:
    """What the Job of an attempt is called: like the attempt if Kubernetes takes that, else much like it and unique."""
    if checks.LABEL.fullmatch(job_name):
        return job_name
    digest = blake2b(job_name.encode(), digest_size=_DIGEST // 2).hexdigest()
    tame = re.sub(r"[^a-z0-9]+", "-", job_name.lower()).strip("-")[: _NAME_LENGTH - _DIGEST - 1].rstrip("-")
    return f"{tame}-{digest}" if tame else f"job-{digest}"


def render_job(request: JobRequest, site: Site, version: tuple[int, int]) -> dict[str, Any]:
    """The Job of one attempt for a server of this version. Raises ValueError for what cannot be given."""
    name = object_name(request.job_name)
    attempt = AttemptFiles.of(request.workspace_dir, request.job_name)
    limit = math.ceil(request.resource_requirements.time_hours * 3600 + site.margin_seconds)
    own = {MANAGER_LABEL: MANAGER, DEPLOYMENT_LABEL: site.deployment, JOB_LABEL: name}
    notes = {NAME_ANNOTATION: request.job_name, ATTEMPT_ANNOTATION: str(attempt)}
    # A pod that an autoscaler moves would have to begin anew.
    stay = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    template = merged(
        {"metadata": {"annotations": {**notes, **stay}}, "spec": _pod(request, site, attempt, limit)}, site.pod_patch
    )
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**metadata.get("labels", {}), **own}
    spec: dict[str, Any] = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        # The time limit is the pod's; this one also counts the time in which no node has room.
        "activeDeadlineSeconds": limit + math.ceil(site.pending_hours * 3600),
        "ttlSecondsAfterFinished": site.ttl_seconds,
        "template": template,
    }
    if version >= _DAY_OF_POD_FAILURE_POLICY:
        spec["podFailurePolicy"] = _POD_FAILURE_POLICY
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": site.namespace, "labels": own, "annotations": notes},
        "spec": spec,
    }


_POD_FAILURE_POLICY: Mapping[str, Any] = {
    # The Job then says itself what happened to its pod, which may be gone by the time somebody asks; and no second pod
    # is started while the first still ends.
    "rules": [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}},
    ]
}


# --- the pod ---------------------------------------------------------------------------------------------------------


def _pod(request: JobRequest, site: Site, attempt: AttemptFiles, limit: int) -> dict[str, Any]:
    extra = _checked_extra(request.resource_requirements)
    volumes, mounts = _volumes(request, site, attempt)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": limit,
        "terminationGracePeriodSeconds": max(1, math.ceil(site.grace_seconds)),
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "containers": [_container(request, site, attempt, mounts, extra)],
        "volumes": volumes,
    }
    chosen = {
        "serviceAccountName": site.service_account,
        "imagePullSecrets": [{"name": name} for name in site.pull_secrets],
        "priorityClassName": extra.get("priority_class", site.priority_class),
        "nodeSelector": {**site.node_selector, **extra.get("node_selector", {})},
        "tolerations": [*site.tolerations, *extra.get("tolerations", [])],
        "securityContext": _pod_security(site),
    }
    return spec | {key: value for key, value in chosen.items() if value}


def _container(
    request: JobRequest, site: Site, attempt: AttemptFiles, mounts: list[dict[str, Any]], extra: Mapping[str, Any]
) -> dict[str, Any]:
    native = site.mode is Mode.NATIVE
    script = join(ATTEMPT_DIR, attempt.files.script.rpartition("/")[2]) if native else attempt.files.script
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": oci_image(request.image_ref, NATIVE_SETTING) if native else site.launcher_image,
        # Kubernetes puts variables into what looks like $(NAME); `$$` stands for a plain `$`.
        "command": ["/bin/sh", script.replace("$", "$$")],
        "env": [{"name": POD_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": _resources(request.resource_requirements, site, extra),
        "volumeMounts": mounts,
        # What the shell has said if the script could not even begin.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    security = _container_security(site)
    return container | ({"securityContext": security} if security else {})


def _pod_security(site: Site) -> dict[str, Any]:
    context: dict[str, Any] = {}
    if site.run_as is not None:
        user, group = site.run_as
        context = {"runAsUser": user, "runAsGroup": group}
    if site.mode is Mode.NATIVE:
        context["seccompProfile"] = {"type": "RuntimeDefault"}
        if site.run_as is not None and site.run_as[0]:
            context["runAsNonRoot"] = True
    return context


def _container_security(site: Site) -> dict[str, Any]:
    if site.mode is Mode.NATIVE:
        return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {"privileged": True} if site.privileged else {}


# --- resources -------------------------------------------------------------------------------------------------------


def _checked_extra(resources: Resources) -> Mapping[str, Any]:
    extra = resources.extra
    if resources.partition is not None:
        raise ValueError("Kubernetes has no partitions; a step chooses nodes with resources.extra.node_selector")
    if resources.account is not None:
        raise ValueError("Kubernetes has no accounts")
    if unknown := sorted(set(extra) - set(_EXTRA)):
        raise ValueError(f"resources.extra.{unknown[0]} is not known; known are: {', '.join(_EXTRA)}")
    shapes = {"node_selector": checks.labels, "tolerations": checks.objects, "resources": checks.mapping}
    for key, shape in shapes.items():
        if key in extra and shape(extra[key]) is None:
            raise ValueError(f"resources.extra.{key} is {extra[key]!r}, which has not the shape that Kubernetes wants")
    if not isinstance(extra.get("priority_class", ""), str):
        raise ValueError("resources.extra.priority_class must be the name of a PriorityClass")
    for name, amount in extra.get("resources", {}).items():
        _check_quantity(name, amount)
    return extra


def _check_quantity(name: str, amount: JSON) -> None:
    if name in ("cpu", "memory") or not _RESOURCE.fullmatch(name):
        raise ValueError(f"resources.extra.resources.{name} cannot be asked for like this")
    if isinstance(amount, bool) or not _QUANTITY.fullmatch(str(amount)):
        raise ValueError(f"resources.extra.resources.{name} is {amount!r}, which is no quantity")


def _resources(resources: Resources, site: Site, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Requests and limits are the same: what was asked for is there, and no more is taken."""
    amounts = {
        "cpu": f"{max(1, round(resources.cpu * 1000))}m",
        "memory": f"{max(1, math.ceil(resources.memory_gb * 1024))}Mi",
    }
    if resources.gpu:
        amounts[site.gpu_resource] = str(resources.gpu)
    amounts |= {name: str(amount) for name, amount in extra.get("resources", {}).items()}
    return {"requests": amounts, "limits": dict(amounts)}


# --- volumes ---------------------------------------------------------------------------------------------------------


def contract_mounts(request: JobRequest) -> Sequence[Mount]:
    """What a container sees at least, if the service does not say more."""
    logs = shared.AttemptFiles.of(request.workspace_dir, request.job_name).logs
    return (
        Mount(request.input_dir, "/workflow/input", False),
        Mount(request.workspace_dir, "/workflow/workspace", True),
        Mount(request.output_dir, "/workflow/output", True),
        Mount(dirname(request.manifest_path), "/workflow/config", False),
        Mount(logs, "/workflow/logs", True),
    )


def _volumes(
    request: JobRequest, site: Site, attempt: AttemptFiles
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes = [{"name": "pipelines", **site.base_volume.source}]
    if site.mode is Mode.NATIVE:
        wanted = [*(request.mounts or contract_mounts(request)), Mount(dirname(attempt.base), ATTEMPT_DIR, True)]
        return volumes, [_inside(mount, site) for mount in wanted]
    if not _is_inside(attempt.base, site.base_dir):
        raise ValueError(f"{attempt.base} is not below {site.base_dir}, which is all that pods see")
    mounts = [_mount("pipelines", site.base_dir, site.base_volume, True)]
    if site.image_volume is not None:
        volumes.append({"name": "images", **site.image_volume.source})
        mounts.append(_mount("images", site.image_dir, site.image_volume, False))
    return volumes, mounts


def _mount(name: str, path: str, volume: Volume, writable: bool) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": name, "mountPath": path}
    if volume.sub_path:
        mount["subPath"] = volume.sub_path
    return mount if writable else {**mount, "readOnly": True}


def _inside(mount: Mount, site: Site) -> dict[str, Any]:
    """A part of PIPELINE_BASE_DIR under a path of its own."""
    if not _is_inside(mount.source, site.base_dir):
        raise ValueError(f"{mount.source} is not below {site.base_dir}, which is all that pods see")
    part = Volume({}, join(site.base_volume.sub_path, relpath(mount.source, site.base_dir)))
    return _mount("pipelines", mount.target, part, mount.writable)


def _is_inside(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/") and ".." not in path.split("/")
