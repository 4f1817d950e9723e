"""Settings of the Slurm backend."""

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings


class SlurmSettings(BackendSettings):
    """`SLURM_...`: the cluster, and what jobs get whose step names nothing else."""

    partition: str = Field(
        default="", description="Partition of the Slurm jobs that name none; empty: the cluster's default."
    )
    account: str = Field(
        default="", description="Account of the Slurm jobs whose step names none; empty: the user's default."
    )
    qos: str = Field(
        default="", description="Quality of service of the Slurm jobs whose step names none; empty: the default."
    )
    conf: str = Field(
        default="", description="The `slurm.conf` that Slurm's commands read; empty: where they look by themselves."
    )
    ssh_host: str = Field(
        default="", description="The submit node to run Slurm's commands on, as `ssh` takes it; empty: they are here."
    )
    ssh_config: str = Field(default="", description="The configuration of `ssh` for that, if not the user's.")
    state_dir: str = Field(
        default="",
        description="Directory of the submissions, shared by all workers of the backend; empty: under `DATA_DIR`.",
    )
    calls_per_minute: int = Field(
        default=240, ge=1, description="Calls of Slurm's commands in any minute, by all workers."
    )
    poll_seconds: float = Field(
        default=1, ge=0, description="A look at Slurm's queue is not repeated sooner than this."
    )
    array_limit: int = Field(default=0, ge=0, description="Tasks of one Slurm job array that run at once; 0: no limit.")
    signal_seconds: int = Field(
        default=60,
        ge=0,
        description="How long before its time limit (of 10 minutes or more) a Slurm job gets SIGTERM; 0: never.",
    )
