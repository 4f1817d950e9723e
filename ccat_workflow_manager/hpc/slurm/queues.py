"""A partition as operators see it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ccat_workflow_manager.hpc.base import QueueStatus
from ccat_workflow_manager.hpc.slurm.listing import Partition, Seen
from ccat_workflow_manager.json_values import JSON

_GIB_MB = 1024


def queue_of(partition: Partition, jobs: Iterable[Seen], ours: str | None, facts: Mapping[str, JSON]) -> QueueStatus:
    """`jobs` are those of the service, `ours` is where steps without a partition go, `facts` are added as they are."""
    states = [seen.state for seen in jobs if partition.name in seen.partition.split(",")]
    limits = partition.limits
    return QueueStatus(
        partition.name,
        available=partition.up,
        running=states.count("RUNNING"),
        pending=states.count("PENDING"),
        cpus_total=partition.cpus.get("total"),
        cpus_used=partition.cpus.get("allocated"),
        memory_total_gb=partition.memory_mb / _GIB_MB * partition.nodes.get("total", 0),
        limits=replace(limits, default=partition.name in ours.split(",")) if ours else limits,
        details={
            "time_limit": partition.limit,
            "nodes": dict(partition.nodes),
            "memory_gb_per_node": round(partition.memory_mb / _GIB_MB, 1),
            "gres": list(partition.gres),
            **facts,
        },
    )
