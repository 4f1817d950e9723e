"""Settings of the sample backend."""

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings


class SampleSettings(BackendSettings):
    """`SAMPLE_...`: each field is a setting and a keyword of `SampleBackend`."""

    max_jobs: int = Field(default=0, ge=0, description="Jobs that a worker runs at once; 0: no limit.")
