"""Tasks as clients of TES write them. Fields without a meaning here are only shown again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, model_validator

from ccat_workflow_manager.definition.messages import given_fields

State = Literal[
    "UNKNOWN", "QUEUED", "INITIALIZING", "RUNNING", "PAUSED", "COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED",
    "PREEMPTED", "CANCELING",
]  # fmt: skip
View = Literal["MINIMAL", "BASIC", "FULL"]
_Text = Annotated[StrictStr, Field(max_length=10_000)]
_Number = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    _given = model_validator(mode="before")(given_fields)


class Input(_Document):
    url: _Text | None = None
    path: _Text
    content: StrictStr | None = None


class Output(_Document):
    url: _Text
    path: _Text


class Resources(_Document):
    cpu_cores: Annotated[int, Field(strict=True, ge=1)] | None = None
    ram_gb: _Number | None = None
    disk_gb: _Number | None = None
    zones: Annotated[list[_Text], Field(max_length=100)] | None = None
    backend_parameters: Annotated[dict[StrictStr, _Text], Field(max_length=100)] | None = None
    backend_parameters_strict: StrictBool | None = None


class Executor(_Document):
    image: _Text
    command: Annotated[list[StrictStr], Field(min_length=1, max_length=10_000)]
    workdir: _Text | None = None
    stdin: _Text | None = None
    stdout: _Text | None = None
    stderr: _Text | None = None
    env: Annotated[dict[StrictStr, StrictStr], Field(max_length=1000)] | None = None
    ignore_error: StrictBool | None = None


class TesTask(_Document):
    """A task to create."""

    name: Annotated[StrictStr, Field(max_length=500)] | None = None
    description: _Text | None = None
    inputs: Annotated[list[Input], Field(max_length=1000)] | None = None
    outputs: Annotated[list[Output], Field(max_length=1000)] | None = None
    resources: Resources | None = None
    executors: Annotated[list[Executor], Field(min_length=1, max_length=100)]
    volumes: Annotated[list[_Text], Field(max_length=100)] | None = None
    tags: Annotated[dict[StrictStr, StrictStr], Field(max_length=40)] | None = None
