"""Settings of the RADICAL-Pilot backend."""

from typing import Annotated

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings, matching

Label = Annotated[str, matching(r"\w+\.\w+", "a label such as `ornl.frontier`")]


class RadicalPilotSettings(BackendSettings):
    """`RADICAL_PILOT_...`: one allocation, as RADICAL-Pilot describes it."""

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
