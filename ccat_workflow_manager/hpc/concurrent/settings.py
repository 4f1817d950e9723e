"""Settings of the concurrent backend."""

from typing import Literal

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings


class ConcurrentSettings(BackendSettings):
    """`CONCURRENT_...`: the pool of a worker."""

    max_workers: int = Field(default=0, ge=0, description="Size of the pool of the concurrent backend; 0: the cores.")
    executor: Literal["thread", "process"] = Field(default="thread", description="What that pool is made of.")
    state_dir: str = Field(
        default="",
        description="Directory of its job files, shared by all workers of the machine; empty: under `DATA_DIR`.",
    )
