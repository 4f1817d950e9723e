"""Settings of the Dask backend."""

from typing import Annotated

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings, matching

Address = Annotated[str, matching(r"|(tcp|tls|ws|wss|ucx)://\S+", "an address such as `tcp://host:8786`, or empty")]


class DaskSettings(BackendSettings):
    """`DASK_...`: the scheduler of a site, or the shape of our own cluster."""

    scheduler_address: Address = Field(
        default="", description="Scheduler of the Dask jobs; empty: a cluster of our own on the machine of the worker."
    )
    resources: str = Field(
        default="",
        description="What the workers of that scheduler declare (`--resources`) and jobs take from them, of `cpu`, "
        "`memory_gb`, `gpu`; empty: a job takes one thread, however much it asks for.",
    )
    state_dir: str = Field(
        default="",
        description="Directory of the submissions, shared by all workers of the backend; empty: under `DATA_DIR`.",
    )
    workers: int = Field(default=1, ge=1, description="Dask workers of our own cluster.")
    jobs_per_worker: int = Field(
        default=0, ge=0, description="Jobs that each of them runs at once; 0: four for each core."
    )
    idle_seconds: float = Field(
        default=60, ge=1, description="Our own Dask cluster ends when it has been idle for so long."
    )
