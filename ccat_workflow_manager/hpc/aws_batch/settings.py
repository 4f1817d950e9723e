"""Settings of the AWS Batch backend."""

from typing import Annotated, Literal

from pydantic import Field

from ccat_workflow_manager.settings import BackendSettings, url_of

DEFAULT_LOG_GROUP = "/aws/batch/job"
"""Where AWS Batch writes logs by itself."""


class AwsBatchSettings(BackendSettings):
    """`AWS_BATCH_...`: the queue, the containers of jobs, and how the service is called."""

    job_queue: str = Field(default="", description="Job queue of the AWS Batch jobs whose step names none.")
    region: str = Field(default="", description="Region of that queue; empty: as AWS's own configuration says.")
    profile: str = Field(
        default="", description="Profile of AWS's configuration files to use; empty: the usual credentials."
    )
    endpoint_url: Annotated[str, url_of("http", "https")] = Field(
        default="", description="Where AWS Batch is asked, and nothing else; empty: as AWS's own configuration says."
    )
    image: str = Field(
        default="", description="The image that AWS Batch jobs run in: with Apptainer, or with the programs."
    )
    job_definition: str = Field(
        default="", description="An AWS Batch job definition to use instead of registering one."
    )
    mode: Literal["apptainer", "native"] = Field(
        default="apptainer",
        description="How steps run in AWS Batch jobs: by Apptainer in `AWS_BATCH_IMAGE`, or each in a job of its own "
        "image.",
    )
    native_trusted: bool = Field(
        default=False,
        description="Required by `AWS_BATCH_MODE=native`: `true` states that every step is trusted with all volumes "
        "and the role of the jobs.",
    )
    platform: Literal["EC2", "FARGATE"] = Field(default="EC2", description="What the AWS Batch queue's machines are.")
    volumes: str = Field(
        default="",
        description="What AWS Batch jobs see under the same path as the worker: "
        "`/data=/mnt/data,/cache=efs:fs-1:/cache`.",
    )
    privileged: bool = Field(
        default=False, description="Whether AWS Batch containers are privileged, as Apptainer may need it."
    )
    user: str = Field(default="", description="User in AWS Batch containers, `1000:1000`; empty: as the image says.")
    job_role: str = Field(default="", description="ARN of the role that AWS Batch jobs have; empty: none.")
    execution_role: str = Field(
        default="", description="ARN of the role that starts AWS Batch jobs; Fargate needs one."
    )
    assign_public_ip: bool = Field(default=False, description="Whether Fargate jobs get a public address.")
    share_identifier: str = Field(
        default="", description="Share of AWS Batch jobs whose step names no account; empty: none."
    )
    log_group: str = Field(default=DEFAULT_LOG_GROUP, description="Log group that AWS Batch containers write to.")
    s3_prefix: str = Field(
        default="", description="Where attempts travel, `s3://bucket/prefix`, if jobs share no filesystem."
    )
    s3_result_limit_gb: float = Field(
        default=50, gt=0, description="Largest size of the results that a job may send through S3, unpacked."
    )
    calls_per_minute: int = Field(default=600, ge=1, description="Calls of AWS in any minute, by all workers.")
    state_dir: str = Field(
        default="",
        description="Directory of the submissions, shared by all workers of the backend; empty: under `DATA_DIR`.",
    )
