"""From a request to the Job that is sent to the API server. Pure; tests/support/golden has examples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from posixpath import dirname, join, relpath
from typing import Any

from ccat_workflow_manager.definition.image_names import oci_image
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.kubernetes import site as shapes
from ccat_workflow_manager.hpc.kubernetes.patch import merged
from ccat_workflow_manager.hpc.kubernetes.script import NODE_VARIABLE, POD_DIR, POD_VARIABLE, SCRIPT_IN_IMAGE, pod_files
from ccat_workflow_manager.hpc.kubernetes.site import LABEL, Site, Volume
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Mount, Resources

MANAGER = "ccat-workflow-manager"
MANAGER_LABEL = "app.kubernetes.io/managed-by"
DEPLOYMENT_LABEL = "app.kubernetes.io/instance"
JOB_LABEL = f"{MANAGER}/job"
"""On a pod: the name of its Job."""
NAME_ANNOTATION = f"{MANAGER}/job-name"
CONTAINER = "step"
SELECTOR = f"{MANAGER_LABEL}={MANAGER}"

_FIRST_WITH_POD_FAILURE_POLICY = (1, 26)
_NAME_LENGTH = 63
_DIGEST = 16
_QUANTITY = re.compile(r"\d+(\.\d+)?([KMGTPE]i?|k|m)?")
NATIVE_SETTING = "KUBERNETES_MODE=native"
_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NODE_DISK = "ephemeral-storage"
_EXTRA = ("node_selector", "priority_class", "resources", "tolerations")


def object_name(job_name: str) -> str:
    """The name of the Job of an attempt: that of the attempt if Kubernetes accepts it, else a similar, unique one."""
    if LABEL.fullmatch(job_name):
        return job_name
    digest = blake2b(job_name.encode(), digest_size=_DIGEST // 2).hexdigest()
    tame = re.sub(r"[^a-z0-9]+", "-", job_name.lower()).strip("-")[: _NAME_LENGTH - _DIGEST - 1].rstrip("-")
    return f"{tame}-{digest}" if tame else f"job-{digest}"


def render_job(request: JobRequest, site: Site, version: tuple[int, int]) -> dict[str, Any]:
    """The Job of one attempt, for a server of this version. Raises ValueError for a request that it cannot express."""
    name = object_name(request.job_name)
    files = AttemptFiles.of(request.workspace_dir, request.job_name)
    limit = math.ceil(request.resource_requirements.time_hours * 3600 + site.settings.margin_seconds)
    own = {MANAGER_LABEL: MANAGER, DEPLOYMENT_LABEL: site.settings.deployment, JOB_LABEL: name}
    annotations = {NAME_ANNOTATION: request.job_name}
    # A pod that an autoscaler moves would have to begin anew.
    stay = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    template = merged(
        {"metadata": {"annotations": {**annotations, **stay}}, "spec": _pod(request, site, files, limit)},
        site.pod_patch,
    )
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**metadata.get("labels", {}), **own}
    spec: dict[str, Any] = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        # The time limit is the pod's; this one also counts the time in which no node has room.
        "activeDeadlineSeconds": limit + math.ceil(site.settings.pending_hours * 3600),
        "ttlSecondsAfterFinished": site.settings.ttl_seconds,
        "template": template,
    }
    if version >= _FIRST_WITH_POD_FAILURE_POLICY:
        spec["podFailurePolicy"] = _POD_FAILURE_POLICY
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": site.settings.used_namespace,
            "labels": own,
            "annotations": annotations,
        },
        "spec": spec,
    }


_POD_FAILURE_POLICY: Mapping[str, Any] = {
    # The Job then shows what happened to its pod, which may be gone by then; and no second pod starts while the first
    # one still ends.
    "rules": [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}},
    ]
}


# --- the pod ---------------------------------------------------------------------------------------------------------


def _pod(request: JobRequest, site: Site, files: AttemptFiles, limit: int) -> dict[str, Any]:
    extra = _checked_extra(request.resource_requirements, site)
    volumes, mounts = _volumes(request, site, files)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": limit,
        "terminationGracePeriodSeconds": max(1, math.ceil(site.grace_seconds)),
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "containers": [_container(request, site, files, mounts, extra)],
        "volumes": volumes,
    }
    chosen = {
        "serviceAccountName": site.settings.service_account,
        "imagePullSecrets": [{"name": name} for name in shapes.names(site.settings.pull_secrets)],
        "priorityClassName": extra.get("priority_class", site.settings.priority_class),
        "nodeSelector": {**site.node_selector, **extra.get("node_selector", {})},
        "tolerations": [*site.tolerations, *(shapes.objects(extra.get("tolerations", [])) or ())],
        "securityContext": _pod_security(site),
    }
    return spec | {key: value for key, value in chosen.items() if value}


def _container(
    request: JobRequest, site: Site, files: AttemptFiles, mounts: list[dict[str, Any]], extra: Mapping[str, Any]
) -> dict[str, Any]:
    script = SCRIPT_IN_IMAGE if site.native else files.script
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": oci_image(request.image_ref, NATIVE_SETTING) if site.native else site.settings.launcher_image,
        # Kubernetes puts variables into what looks like $(NAME); `$$` stands for a plain `$`.
        "command": ["/bin/sh", script.replace("$", "$$")],
        "env": [
            {"name": POD_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            *_secret_variables(request, site),
        ],
        "resources": _resources(request.resource_requirements, site, extra),
        "volumeMounts": mounts,
        # The message of the shell if the script could not begin.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    security = _container_security(site)
    return container | ({"securityContext": security} if security else {})


def _secret_variables(request: JobRequest, site: Site) -> list[dict[str, Any]]:
    """The kubelet reads the values: no other part of the cluster, and no process of ours, gets to see them."""
    found = []
    for variable, reference in request.secrets.items():
        project, _, key = reference.partition("/")
        source = {"name": f"{site.settings.secrets_prefix}-{project}", "key": key, "optional": False}
        found.append({"name": variable, "valueFrom": {"secretKeyRef": source}})
    return found


def _pod_security(site: Site) -> dict[str, Any]:
    context: dict[str, Any] = {}
    if site.run_as is not None:
        user, group = site.run_as
        context = {"runAsUser": user, "runAsGroup": group}
    if site.native:
        context["seccompProfile"] = {"type": "RuntimeDefault"}
        if site.run_as is not None and site.run_as[0]:
            context["runAsNonRoot"] = True
    return context


def _container_security(site: Site) -> dict[str, Any]:
    if site.native:
        return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {"privileged": True} if site.settings.privileged else {}


# --- resources -------------------------------------------------------------------------------------------------------


def _checked_extra(resources: Resources, site: Site) -> Mapping[str, Any]:
    extra = resources.extra
    if resources.partition is not None:
        raise ValueError("Kubernetes has no partitions; a step chooses nodes with resources.extra.node_selector")
    if resources.account is not None:
        raise ValueError("Kubernetes has no accounts")
    if unknown := sorted(set(extra) - set(_EXTRA)):
        raise ValueError(f"resources.extra.{unknown[0]} is not known; known are: {', '.join(_EXTRA)}")
    checks = {"node_selector": shapes.labels, "tolerations": shapes.objects, "resources": shapes.mapping}
    for key, check in checks.items():
        if key in extra and check(extra[key]) is None:
            raise ValueError(f"resources.extra.{key} is {extra[key]!r}, which Kubernetes does not accept")
    if not isinstance(extra.get("priority_class", ""), str):
        raise ValueError("resources.extra.priority_class must be the name of a PriorityClass")
    for name, amount in extra.get("resources", {}).items():
        _check_quantity(name, amount)
    _check_allowed(extra, site)
    return extra


def _check_allowed(extra: Mapping[str, Any], site: Site) -> None:
    """The site decides which pods may preempt others, and which nodes a pipeline may reach."""
    settings = site.settings
    labels = extra.get("node_selector", {})
    tolerated = [str(each.get("key") or "*") for each in shapes.objects(extra.get("tolerations", [])) or ()]
    priority = [extra["priority_class"]] if "priority_class" in extra else []
    for key, wanted, setting, text in (
        ("priority_class", priority, "ALLOWED_PRIORITY_CLASSES", settings.allowed_priority_classes),
        ("node_selector", [f"{key}={value}" for key, value in labels.items()], "ALLOWED_NODE_LABELS",
         settings.allowed_node_labels),
        ("tolerations", tolerated, "ALLOWED_TOLERATIONS", settings.allowed_tolerations),
    ):  # fmt: skip
        allowed = shapes.names(text)
        for each in wanted:
            if each not in allowed and (key != "node_selector" or each.partition("=")[0] not in allowed):
                raise ValueError(
                    f"resources.extra.{key} asks for {each!r}, which KUBERNETES_{setting} does not allow; it allows: "
                    f"{', '.join(allowed) or 'nothing'}"
                )


def _check_quantity(name: str, amount: JSON) -> None:
    if name in ("cpu", "memory") or not _RESOURCE.fullmatch(name):
        raise ValueError(f"resources.extra.resources.{name} cannot be asked for like this")
    if isinstance(amount, bool) or not _QUANTITY.fullmatch(str(amount)):
        raise ValueError(f"resources.extra.resources.{name} is {amount!r}, which is no quantity")


def _resources(resources: Resources, site: Site, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Requests and limits are equal: a pod gets what the step asks for, and no more."""
    amounts = {
        "cpu": f"{max(1, round(resources.cpu * 1000))}m",
        "memory": f"{max(1, math.ceil(resources.memory_gb * 1024))}Mi",
    }
    if resources.gpu:
        amounts[site.settings.gpu_resource] = str(resources.gpu)
    amounts |= {name: str(amount) for name, amount in extra.get("resources", {}).items()}
    limits = dict(amounts)
    if site.disk_limit_gb and _NODE_DISK not in amounts:
        # The step did not ask for it: no node has to set it aside.
        amounts[_NODE_DISK], limits[_NODE_DISK] = "0", f"{math.ceil(site.disk_limit_gb * 1024)}Mi"
    return {"requests": amounts, "limits": limits}


# --- volumes ---------------------------------------------------------------------------------------------------------


def _contract_mounts(request: JobRequest, files: AttemptFiles) -> tuple[Mount, ...]:
    """The mounts of the container contract, for a request that names none."""
    return (
        Mount(request.input_dir, "/workflow/input", False),
        Mount(request.workspace_dir, "/workflow/workspace", True),
        Mount(request.output_dir, "/workflow/output", True),
        Mount(dirname(request.manifest_path), "/workflow/config", False),
        Mount(files.logs, "/workflow/logs", True),
    )


def _volumes(request: JobRequest, site: Site, files: AttemptFiles) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if site.native:
        own = (Mount(pod_files(files).directory, POD_DIR, True), Mount(files.script, SCRIPT_IN_IMAGE, False))
        mounts = [_part(mount, site) for mount in (*(request.mounts or _contract_mounts(request, files)), *own)]
    elif _is_inside(files.base, site.base.path):
        mounts = [_mount(site.base, site.base.path, site.base.sub_path, writable=True)]
        mounts += [_mount(each, each.path, each.sub_path, writable=False) for each in site.others]
    else:
        raise ValueError(f"{files.base} is not below {site.base.path}, which is all that pods see")
    used = {mount["name"] for mount in mounts}
    return [{"name": each.name, **each.source} for each in (site.base, *site.others) if each.name in used], mounts


def _mount(volume: Volume, path: str, sub_path: str, *, writable: bool) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": volume.name, "mountPath": path}
    if sub_path:
        mount["subPath"] = sub_path
    return mount if writable else {**mount, "readOnly": True}


def _part(mount: Mount, site: Site) -> dict[str, Any]:
    """A part of PIPELINE_BASE_DIR, or of a directory of inputs, under a path of its own."""
    for volume in (site.base, *site.others):
        whole = mount.source == volume.path and volume is not site.base
        if whole or _is_inside(mount.source, volume.path):
            sub_path = volume.sub_path if whole else join(volume.sub_path, relpath(mount.source, volume.path))
            return _mount(volume, mount.target, sub_path, writable=mount.writable and volume is site.base)
    visible = ", ".join(volume.path for volume in (site.base, *site.others))
    raise ValueError(f"{mount.source} is not below {visible}, which is all that pods see (KUBERNETES_INPUT_VOLUMES)")


def _is_inside(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/") and ".." not in path.split("/")
