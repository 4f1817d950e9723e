"""What a pilot is asked to be."""

from __future__ import annotations

import os
from dataclasses import dataclass

_MB = 1024**2


@dataclass(frozen=True, slots=True)
class PilotOptions:
    """One allocation, as the settings describe it."""

    resource: str = "local.localhost"
    """RADICAL-Pilot's label of the machine."""
    nodes: int = 1
    cores: int = 0
    """Of the whole pilot, instead of nodes; 0: nodes."""
    gpus: int = 0
    """Of each node, for jobs to ask for."""
    memory_gb: float = 0
    """Of each node; 0: what the label says."""
    queue: str = ""
    project: str = ""
    schema: str = ""
    walltime_minutes: int = 720
    idle_minutes: float = 15
    kill_grace_seconds: float = 5

    @property
    def local(self) -> bool:
        return self.resource.startswith("local.")

    @property
    def pilot_size(self) -> dict[str, int]:
        """In the words of a pilot description."""
        if self.local or self.cores:
            return {"cores": self._local_cores or self.cores, "gpus": self.gpus}
        return {"nodes": self.nodes}

    @property
    def node_shape(self) -> dict[str, int]:
        """What a label says about its nodes is overruled by this: of this machine it knows nothing."""
        shape = {"gpus_per_node": self.gpus} if self.gpus or self.local else {}
        if self.memory_gb or self.local:
            shape["mem_per_node"] = (
                int(self.memory_gb * 1024) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MB
            )
        if self.local:
            shape["cores_per_node"] = self._local_cores
        return shape

    @property
    def _local_cores(self) -> int:
        return (self.cores or os.cpu_count() or 1) if self.local else 0
