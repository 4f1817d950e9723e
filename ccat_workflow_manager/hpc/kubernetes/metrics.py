"""What a metrics server (metrics.k8s.io) says of a pod. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.hpc.base import ResourceUsage
from ccat_workflow_manager.hpc.kubernetes.manifest import CONTAINER

_QUANTITY = re.compile(r"([0-9.]+(?:[eE][-+]?\d+)?)([a-zA-Z]*)")
_UNITS = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
          "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}  # fmt: skip


def quantity(text: str) -> float:
    """The number that `128Mi` or `250m` stands for. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return float(match[1]) * _UNITS[match[2]]


def usage_of(data: Mapping[str, Any]) -> ResourceUsage | None:
    """What the container of the step uses. A metrics server tells the rate of CPU time, not its sum."""
    try:
        for each in data["containers"]:
            if each["name"] == CONTAINER:
                return ResourceUsage(memory_gb=quantity(each["usage"]["memory"]) / 2**30)
    except (KeyError, TypeError, ValueError) as error:
        raise BackendConfused(f"the metrics of a pod cannot be read: {error!r}", backend="kubernetes") from error
    return None
