"""Settings of the RADICAL-Pilot backend, and the size of a pilot that follows from them."""

import os
from typing import Annotated

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings, matching

Label = Annotated[str, matching(r"\w+\.\w+", "a label such as `ornl.frontier`")]
_MB = 1024**2


class RadicalPilotSettings(BackendSettings):
    """`RADICAL_PILOT_...`: one allocation, as RADICAL-Pilot describes it."""

    trusted_network: bool = Field(
        default=False,
        description="Required: `true` states that all users who reach the ports of RADICAL-Pilot are trusted.",
    )
    resource: Label = Field(
        default="local.localhost",
        description="Where pilots run, as RADICAL-Pilot calls it; `local.localhost` is the machine of the worker.",
    )
    nodes: int = Field(default=1, ge=1, description="Nodes of a pilot.")
    cores: int = Field(default=0, ge=0, description="Cores of a pilot, instead of nodes; 0: nodes, here all cores.")
    gpus: int = Field(default=0, ge=0, description="GPUs of each node of a pilot that steps may ask for.")
    memory_gb: float = Field(default=0, ge=0, description="Memory of such a node; 0: as the label says, here all.")
    queue: str = Field(default="", description="Queue of the pilots; empty: as the label says.")
    project: str = Field(default="", description="Project that pays for the pilots.")
    access_schema: str = Field(
        default="", alias="schema", description="How the machine is reached, if its label knows several ways."
    )
    walltime_minutes: int = Field(default=720, ge=1, description="Time of a pilot; no step may ask for more.")
    idle_minutes: float = Field(default=15, gt=0, description="A pilot ends when it has had nothing to do for so long.")
    state_dir: str = Field(
        default="", description="Directory of jobs and pilots, on a disk that nodes see; empty: under `DATA_DIR`."
    )

    @property
    def local(self) -> bool:
        return self.resource.startswith("local.")

    @property
    def pilot_size(self) -> dict[str, int]:
        """The size of a pilot, as fields of a pilot description."""
        if self.local or self.cores:
            return {"cores": self._local_cores or self.cores, "gpus": self.gpus}
        return {"nodes": self.nodes}

    @property
    def node_shape(self) -> dict[str, int]:
        """What replaces the description of a node in the label, which knows nothing of this machine."""
        shape = {"gpus_per_node": self.gpus} if self.gpus or self.local else {}
        if self.memory_gb or self.local:
            here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MB
            shape["mem_per_node"] = int(self.memory_gb * 1024) or here
        if self.local:
            shape["cores_per_node"] = self._local_cores
        return shape

    @property
    def _local_cores(self) -> int:
        return (self.cores or os.cpu_count() or 1) if self.local else 0
