"""Size and shape of a pilot, computed from the settings."""

from __future__ import annotations

import os

from ccat_workflow_manager.hpc.radical_pilot.settings import RadicalPilotSettings

_MB = 1024**2


class PilotOptions(RadicalPilotSettings):
    """One allocation, as the settings describe it."""

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
