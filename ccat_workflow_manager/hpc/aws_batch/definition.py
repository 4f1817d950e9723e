"""The job definition that all jobs of one image share. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ccat_workflow_manager.hpc.aws_batch.settings import DEFAULT_LOG_GROUP, AwsBatchSettings

PREFIX = "ccat-wm-"
"""The prefix of the names of registered definitions."""

_EFS = re.compile(r"efs:(fs-[0-9a-zA-Z]+)(@fsap-[0-9a-zA-Z]+)?(:/[^,]*)?")
_HOST = re.compile(r"/[^,]*")


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory that workers and jobs see under the same path."""

    path: str
    host_path: str | None = None
    file_system: str | None = None
    root: str = "/"
    access_point: str | None = None

    def holds(self, path: str) -> bool:
        return path == self.path or path.startswith(self.path.rstrip("/") + "/")

    @property
    def volume(self) -> dict[str, Any]:
        """The volume, without its name."""
        if self.file_system is None:
            return {"host": {"sourcePath": self.host_path}}
        efs: dict[str, Any] = {"fileSystemId": self.file_system, "transitEncryption": "ENABLED"}
        if self.access_point is not None:
            efs["authorizationConfig"] = {"accessPointId": self.access_point, "iam": "ENABLED"}
        elif self.root != "/":
            efs["rootDirectory"] = self.root
        return {"efsVolumeConfiguration": efs}


def mounts_of(site: AwsBatchSettings) -> tuple[Mount, ...]:
    """Raises ValueError for settings with which AWS Batch would refuse every job."""
    mounts = parse_mounts(site.volumes)
    wrong = {
        "Fargate has no privileged containers": site.privileged,
        "Fargate cannot mount directories of a host; use efs:FILE-SYSTEM": any(each.host_path for each in mounts),
        "Fargate needs an execution role": not site.execution_role,
    }
    if site.platform == "FARGATE" and any(wrong.values()):
        raise ValueError("; ".join(text for text, holds in wrong.items() if holds))
    return mounts


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """`/data=/mnt/data,/cache=efs:fs-1:/cache,/home=efs:fs-2@fsap-3`. Raises ValueError."""
    mounts = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        path, _, source = part.partition("=")
        if not _HOST.fullmatch(path):
            raise ValueError(f"{part!r} does not begin with the absolute path of a directory")
        source = source or path
        if match := _EFS.fullmatch(source):
            access = match[2][1:] if match[2] else None
            root = match[3][1:] if match[3] else "/"
            if access and root != "/":
                raise ValueError(f"{part!r} names a directory beside an access point, which has one of its own")
            mounts.append(Mount(path, file_system=match[1], root=root, access_point=access))
        elif _HOST.fullmatch(source):
            mounts.append(Mount(path, host_path=source))
        else:
            raise ValueError(
                f"{source!r} in {part!r} is neither a path nor efs:FILE-SYSTEM[@ACCESS-POINT][:/DIRECTORY]"
            )
    return tuple(mounts)


def render_definition(image: str, site: AwsBatchSettings, mounts: Sequence[Mount]) -> dict[str, Any]:
    """The request that registers the definition of an image. Its name is a digest of it, so it is registered once.

    Each job overrides command, cores, memory and time; the values here only satisfy the service.
    """
    content = _content(image, site, mounts)
    digest = blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=12).hexdigest()
    return {"jobDefinitionName": PREFIX + digest, **content}


def _content(image: str, site: AwsBatchSettings, mounts: Sequence[Mount]) -> dict[str, Any]:
    fargate = site.platform == "FARGATE"
    container: dict[str, Any] = {
        "image": image,
        "command": ["/bin/sh", "-c", "echo 'a job without a command' >&2; exit 64"],
        "resourceRequirements": [
            {"type": "VCPU", "value": "0.25" if fargate else "1"},
            {"type": "MEMORY", "value": "512"},
        ],
        "volumes": [{"name": f"volume-{n}", **mount.volume} for n, mount in enumerate(mounts)],
        "mountPoints": [
            {"sourceVolume": f"volume-{n}", "containerPath": mount.path, "readOnly": False}
            for n, mount in enumerate(mounts)
        ],
    }
    optional: Mapping[str, Any] = {
        "privileged": site.privileged,
        "user": site.user,
        "jobRoleArn": site.job_role,
        "executionRoleArn": site.execution_role,
    }
    container |= {name: value for name, value in optional.items() if value}
    if site.log_group != DEFAULT_LOG_GROUP:
        container["logConfiguration"] = {"logDriver": "awslogs", "options": {"awslogs-group": site.log_group}}
    if fargate:
        container["networkConfiguration"] = {"assignPublicIp": "ENABLED" if site.assign_public_ip else "DISABLED"}
    return {
        "type": "container",
        "containerProperties": container,
        "platformCapabilities": [site.platform],
        # The policy of the step decides about retries, and each has a directory of its own.
        "retryStrategy": {"attempts": 1},
        "propagateTags": True,
        "tags": {"created-by": "ccat-workflow-manager"},
    }
