"""Settings of the PBS backend."""

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings


class PbsSettings(BackendSettings):
    """`PBS_...`: what jobs get whose step names nothing else, and how often the server is called."""

    queue: str = Field(
        default="", description="Queue of the PBS jobs whose step names none; empty: the server's default."
    )
    account: str = Field(
        default="", description="Account of the PBS jobs whose step names none; empty: the user's default."
    )
    state_dir: str = Field(
        default="",
        description="Directory of the submissions, shared by all workers of the backend; empty: under `DATA_DIR`.",
    )
    calls_per_minute: int = Field(
        default=1200, ge=1, description="Calls of PBS's commands in any minute, by all workers."
    )
