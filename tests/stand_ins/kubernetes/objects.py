"""What the objects of a cluster are called and made of, and what a test says about its cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON has it. Objects in the store are never changed in place."""
Key: TypeAlias = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object, by the names that it has in paths, messages and bodies."""

    plural: str
    kind: str
    group: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def qualified(self) -> str:
        """`jobs.batch`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """`Job.batch`, `Pod`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def details(self, name: str, *, kind: bool = False) -> Object:
        """As the Status of an error names an object."""
        group = {"group": self.group} if self.group else {}
        return {"name": name, **group, "kind": self.kind if kind else self.plural}


JOBS = Resource("jobs", "Job", "batch")
PODS = Resource("pods", "Pod")
EVENTS = Resource("events", "Event")
NAMESPACES = Resource("namespaces", "Namespace")
STORED = (JOBS, PODS, EVENTS)


@dataclass(frozen=True, slots=True)
class Image:
    """What an image name stands for. By default, containers see the file system of this machine and their volumes."""

    environment: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    """A directory with the file system of the image, which becomes the root of a container (needs root)."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the cluster. All nodes run on this machine; they differ in what the scheduler may put on them."""

    name: str = "n1"
    cpu: str = "1000"
    memory: str = "1000Gi"
    extended: Mapping[str, str] = field(default_factory=dict)
    """Further resources, such as nvidia.com/gpu."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()

    @property
    def room(self) -> Mapping[str, str]:
        return {"cpu": self.cpu, "memory": self.memory, **self.extended}

    @property
    def all_labels(self) -> Mapping[str, str]:
        return {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", **self.labels}


def key_of(item: Object) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def owners_of(item: Object) -> list[Object]:
    return list(item["metadata"].get("ownerReferences", ()))


def is_owned(item: Object, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in owners_of(item))


def is_being_deleted(item: Object) -> bool:
    return "deletionTimestamp" in item["metadata"]


# --- quantities: `100m`, `2`, `1Gi` -----------------------------------------------------------------------------------

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(m|u|n|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?")
_SUFFIXES: Mapping[str | None, Decimal] = {
    None: Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}  # fmt: skip


def quantity(text: object) -> Decimal:
    """Raises ValueError for what is no quantity."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    return Decimal(match[1] + (match[2] or "")) * _SUFFIXES[match[3]]
