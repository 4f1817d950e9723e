"""The job definition that all jobs of one image and one shape share. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

PREFIX = "ccat-wm-"
"""The prefix of the names of registered definitions."""

_EFS = re.compile(r"efs:(fs-[0-9a-zA-Z]+)(@fsap-[0-9a-zA-Z]+)?(:/[^,]*)?")
_HOST = re.compile(r"/[^,]*")


class Platform(StrEnum):
    """The kind of the compute environments of the queue."""

    EC2 = "EC2"
    FARGATE = "FARGATE"


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


@dataclass(frozen=True, slots=True)
class Shape:
    """The containers of the jobs of a site."""

    platform: Platform = Platform.EC2
    mounts: Sequence[Mount] = ()
    privileged: bool = False
    user: str = ""
    job_role: str = ""
    execution_role: str = ""
    log_group: str = ""
    assign_public_ip: bool = False


def make_shape(platform: str, volumes: str, **more: Any) -> Shape:
    """Raises ValueError for settings with which AWS Batch would refuse every job."""
    shape = Shape(Platform(platform), parse_mounts(volumes), **more)
    wrong = {
        "Fargate has no privileged containers": shape.privileged,
        "Fargate cannot mount directories of a host; use efs:FILE-SYSTEM": any(each.host_path for each in shape.mounts),
        "Fargate needs an execution role": not shape.execution_role,
    }
    if shape.platform is Platform.FARGATE and any(wrong.values()):
        raise ValueError("; ".join(text for text, holds in wrong.items() if holds))
    return shape


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


def render_definition(image: str, shape: Shape) -> dict[str, Any]:
    """The request that registers the definition of an image. Its name is a digest of it, so it is registered once.

    Each job overrides command, cores, memory and time; the values here only satisfy the service.
    """
    content = _content(image, shape)
    digest = blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=12).hexdigest()
    return {"jobDefinitionName": PREFIX + digest, **content}


def _content(image: str, shape: Shape) -> dict[str, Any]:
    fargate = shape.platform is Platform.FARGATE
    container: dict[str, Any] = {
        "image": image,
        "command": ["/bin/sh", "-c", "echo 'a job without a command' >&2; exit 64"],
        "resourceRequirements": [
            {"type": "VCPU", "value": "0.25" if fargate else "1"},
            {"type": "MEMORY", "value": "512"},
        ],
        "volumes": [{"name": f"volume-{n}", **mount.volume} for n, mount in enumerate(shape.mounts)],
        "mountPoints": [
            {"sourceVolume": f"volume-{n}", "containerPath": mount.path, "readOnly": False}
            for n, mount in enumerate(shape.mounts)
        ],
    }
    optional: Mapping[str, Any] = {
        "privileged": shape.privileged,
        "user": shape.user,
        "jobRoleArn": shape.job_role,
        "executionRoleArn": shape.execution_role,
    }
    container |= {name: value for name, value in optional.items() if value}
    if shape.log_group:
        container["logConfiguration"] = {"logDriver": "awslogs", "options": {"awslogs-group": shape.log_group}}
    if fargate:
        container["networkConfiguration"] = {"assignPublicIp": "ENABLED" if shape.assign_public_ip else "DISABLED"}
    return {
        "type": "container",
        "containerProperties": container,
        "platformCapabilities": [shape.platform.value],
        # The policy of the step decides about retries, and each has a directory of its own.
        "retryStrategy": {"attempts": 1},
        "propagateTags": True,
        "tags": {"created-by": "ccat-workflow-manager"},
    }
