"""What a test says about the cluster that it wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON has it."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an image name stands for: by default, the programs of this machine."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    root: Path | None = None
    """A directory with the file system of the image, which a container gets as its root (needs root). Without one, a
    container sees the file system of this machine, with its volumes mounted in it."""
    pull_seconds: float = 0.0
    pretend_seconds: float | None = None
    """Nothing runs, and after this long the container ends well: for crowds of jobs."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the cluster. All of them are this machine; they are told apart by what may be put on them."""

    name: str = "n1"
    cpu: str = "1000"
    memory: str = "1000Gi"
    extended: Mapping[str, str] = field(default_factory=dict)
    """Further resources, such as nvidia.com/gpu."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
