"""Pipeline definitions: their fields and the limits of these, and the parser for every definition.

spec = parse_pipeline_text(Path("chai-map.yaml").read_text())   # or Invalid, with every fault and its path
spec.content_hash                                               # the same for equal content
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic import model_validator as validator_of_all

from ccat_workflow_manager.definition.checks import MAX_ITEMS, MAX_STEPS, definition_faults
from ccat_workflow_manager.definition.files import FileSpec, files_problem, name_problem, total_problem
from ccat_workflow_manager.definition.inputs import InputSpec, input_faults
from ccat_workflow_manager.definition.messages import faults_of, refuse_if
from ccat_workflow_manager.definition.project import DEFAULT_PROJECT, PROJECT_NAME
from ccat_workflow_manager.definition.secrets import EnvironmentValue
from ccat_workflow_manager.definition.text import load_text, with_on
from ccat_workflow_manager.definition.tolerance import tolerate_problem
from ccat_workflow_manager.definition.variables import RESERVED_PREFIX
from ccat_workflow_manager.errors import MAX_FAULTS, Fault
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import JSON, canonical_json, invalid, path_text, scan_json, shown
from ccat_workflow_manager.lifecycle.models import Resources, RetryPolicy
from ccat_workflow_manager.lifecycle.retry import MAX_DELAY_SECONDS, MAX_MEMORY_GB, MAX_TIME_HOURS

PIPELINE_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
STEP_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
BACKEND_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


def _file_name(name: str) -> str:
    refuse_if(name_problem(name))
    return name


def _workspace_file(path: str) -> str:
    if path.startswith("/") or "${" in path or any(part in ("", ".", "..") for part in path.split("/")):
        refuse_if(f"must be a plain path inside the workspace, such as state/sent, not {shown(path)}")
    return path


def _tolerance(value: Any) -> Any:
    refuse_if(tolerate_problem(value))
    return value


Match = Literal["key", "all"]
"""Whether a step run waits for the upstream step run of its own item, or for all of them."""

Wait = Literal["all", "fail_fast"]
"""Whether a tolerance is decided when all upstream step runs are over, or as soon as too many of them are lost."""

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Cpu = Annotated[_Number, Field(gt=0, le=10_000)]
_Memory = Annotated[_Number, Field(gt=0, le=MAX_MEMORY_GB)]
_Hours = Annotated[_Number, Field(gt=0, le=MAX_TIME_HOURS)]
_Factor = Annotated[_Number, Field(ge=1, le=100)]
_Backend = Annotated[StrictStr, Field(pattern=BACKEND_NAME)]
_Word = Annotated[StrictStr, Field(min_length=1, max_length=200)]
_Text = Annotated[StrictStr, Field(max_length=10_000)]
_Files = Annotated[
    dict[Annotated[StrictStr, AfterValidator(_file_name)], FileSpec],
    Field(description="Scripts, read-only at /workflow/code. A file of a step hides one of the pipeline."),
]
_Inputs = Annotated[
    tuple[InputSpec, ...],
    Field(description="Files of the host (below INPUT_ROOTS), s3:// or https://, read-only at /workflow/input."),
]
_WorkspaceFile = Annotated[
    StrictStr,
    AfterValidator(_workspace_file),
    Field(
        min_length=1,
        max_length=500,
        description="A failure after the program has made this file in its workspace is never retried by a policy.",
    ),
]
_Tolerate = Annotated[
    Any,
    AfterValidator(_tolerance),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]{1,6})? ?%$"},
            ],
            "description": "How many step runs, or which share of them, may end without completing.",
        }
    ),
]
_Foreach = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\$\{parameters\.[^{}]+\}$"},
                {"type": "array", "maxItems": MAX_ITEMS, "uniqueItems": True},
                {
                    "type": "object",
                    "properties": {"glob": {"type": "string"}},
                    "required": ["glob"],
                    "additionalProperties": False,
                },
            ],
            "description": "A list, a list parameter, or a pattern of paths: one step run for each item. An item"
            " `{key: ..., value: ...}` brings the key of its step run.",
        }
    ),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @validator_of_all(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        """`environment:` with nothing after it is null in YAML and means the same as no such line."""
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None or name not in cls.model_fields}


class ResourceSpec(_Part):
    """Resources of a step; missing fields come from `defaults`, then from the built-in values."""

    cpu: _Cpu | None = None
    memory_gb: _Memory | None = None
    time_hours: _Hours | None = None
    gpu: Annotated[int, Field(strict=True, ge=0, le=1000)] | None = None
    partition: _Word | None = None
    account: _Word | None = None
    extra: dict[str, Any] = Field(default_factory=dict)


class RetrySpec(_Part):
    """Retry policy of a step; merged like resources."""

    max_attempts: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None
    backoff_seconds: Annotated[_Number, Field(ge=0, le=MAX_DELAY_SECONDS)] | None = None
    on: tuple[FailureReason, ...] | None = None
    memory_factor: _Factor | None = None
    memory_cap_gb: _Memory | None = None
    time_factor: _Factor | None = None
    time_cap_hours: _Hours | None = None

    @field_validator("on")
    @classmethod
    def _order_does_not_matter(cls, reasons: tuple[FailureReason, ...] | None) -> tuple[FailureReason, ...] | None:
        return None if reasons is None else tuple(sorted(set(reasons)))


class DefaultsSpec(_Part):
    """Values for every step that does not set its own."""

    backend: _Backend | None = None
    resources: ResourceSpec = ResourceSpec()
    retry: RetrySpec = RetrySpec()


def _or_name_alone(schema: dict[str, Any]) -> None:
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "description": "The name of a step."}, mapping]


class Dependency(_Part):
    """Another step that must be completed before; a plain name means `{step: name}`."""

    model_config = ConfigDict(json_schema_extra=_or_name_alone)

    step: StrictStr
    match: Match | None = None
    """None: `key` if both steps have the same foreach, otherwise `all`."""
    tolerate: _Tolerate = None
    """None: none."""
    wait: Wait | None = None
    """None: `all` with a tolerance, otherwise `fail_fast`."""
    weak: StrictBool = False
    """The other step must only be over."""

    @validator_of_all(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"step": data} if isinstance(data, str) else data


class StepSpec(_Part):
    """One step: a command in an image, once or for each of several items."""

    name: Annotated[StrictStr, Field(pattern=STEP_NAME)]
    description: _Text = ""
    image: StrictStr | None = None
    command: Annotated[tuple[StrictStr, ...], Field(min_length=1, max_length=10_000)]
    foreach: _Foreach = None
    environment: dict[str, EnvironmentValue] = Field(
        default_factory=dict,
        max_length=1000,
        json_schema_extra={"propertyNames": {"pattern": rf"^(?!{RESERVED_PREFIX})[A-Za-z_][A-Za-z0-9_]*$"}},
    )
    depends_on: tuple[Dependency, ...] = ()
    files: _Files = Field(default_factory=dict)
    inputs: _Inputs = ()
    resources: ResourceSpec = ResourceSpec()
    retry: RetrySpec = RetrySpec()
    irreversible_after: _WorkspaceFile | None = None
    backend: _Backend | None = None


class PipelineSpec(_Part):
    """A pipeline definition. Use `parse_pipeline`: the constructor alone checks only types and ranges."""

    name: Annotated[StrictStr, Field(pattern=PIPELINE_NAME)]
    project: Annotated[StrictStr, Field(pattern=PROJECT_NAME)] = DEFAULT_PROJECT
    description: _Text = ""
    parameters: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="JSON Schema of type object; checks the parameters of runs and draws the form.",
        ),
    ]
    defaults: DefaultsSpec = DefaultsSpec()
    files: _Files = Field(default_factory=dict)
    inputs: _Inputs = ()
    steps: Annotated[tuple[StepSpec, ...], Field(min_length=1, max_length=MAX_STEPS)]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256(canonical_json(canonical(self)).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.content_hash)


def canonical(spec: PipelineSpec) -> dict[str, JSON]:
    """The definition as JSON without fields that equal their default, so that equal content has equal JSON.

    Leaving defaults out, not filling them in, keeps the hash of an unchanged file the same when a later release adds a
    field. `parse_pipeline(canonical(spec)) == spec`.
    """
    return spec.model_dump(mode="json", exclude_defaults=True)


# --- parsing ---------------------------------------------------------------------------------------------------------


_REMEMBERED_SIZE = 64 * 1024


def parse_pipeline(data: object) -> PipelineSpec:
    """Parse a definition from REST or from a file. Raises Invalid with every fault that is found."""
    data, twice = with_on(data)
    scan = scan_json(data)
    if scan.faults or twice:
        raise invalid([*twice, *scan.faults, *(_faults(data) if scan.readable else ())])
    text = json.dumps(data)
    return _remembered(text) if len(text) <= _REMEMBERED_SIZE else _parse(text)


def parse_pipeline_text(text: str) -> PipelineSpec:
    """Parse a definition from YAML or JSON text. Raises Invalid, with line and column if the text cannot be read."""
    return parse_pipeline(load_text(text))


def stored_pipeline(content: object) -> PipelineSpec:
    """A definition that was accepted before, perhaps by a release with fewer checks."""
    return PipelineSpec.model_validate(content)


def _parse(text: str) -> PipelineSpec:
    data = json.loads(text)  # a copy, so that the caller cannot change the definition afterwards
    if faults := _faults(data):
        raise invalid(faults)
    return PipelineSpec.model_validate(data)


_remembered = lru_cache(maxsize=256)(_parse)
"""A request for thousands of runs often repeats one definition."""


def _faults(data: object) -> list[Fault]:
    return list(islice(_all_faults(data), MAX_FAULTS + 1))


def _all_faults(data: object) -> Iterator[Fault]:
    try:
        spec = PipelineSpec.model_validate(data)
    except ValidationError as error:
        yield from faults_of(error, data, PipelineSpec)
    else:
        yield from _cap_faults(spec)
        yield from _file_faults(spec)
        for index, step in enumerate(spec.steps):
            owner = path_text(["steps", index, "inputs"] if step.inputs else ["inputs"])
            yield from input_faults(owner, [entry for _, entry in effective_inputs(spec, index)])
    yield from definition_faults(data)


def _cap_faults(spec: PipelineSpec) -> Iterator[Fault]:
    for index, step in enumerate(spec.steps):
        asked, retry = effective_resources(spec, step), effective_retry(spec, step)
        caps = [
            ("memory_cap_gb", retry.memory_cap_gb, "memory_gb", asked.memory_gb),
            ("time_cap_hours", retry.time_cap_hours, "time_hours", asked.time_hours),
        ]
        for name, cap, field, value in caps:
            if cap is not None and cap < value:
                message = f"must be at least {value:g}, the {field} that the first attempt asks for; it is {cap:g}"
                yield Fault(path_text(["steps", index, "retry", name]), message)


def _file_faults(spec: PipelineSpec) -> Iterator[Fault]:
    if problem := total_problem([each for _, each in all_files(spec)]):
        yield Fault("files", problem)
    for index, step in enumerate(spec.steps):
        if problem := files_problem(effective_files(spec, step)):
            yield Fault(path_text(["steps", index, "files"] if step.files else ["files"]), problem)


# --- what holds for a step ------------------------------------------------------------------------------------------


def effective_resources(spec: PipelineSpec, step: StepSpec) -> Resources:
    """The resources of the step, else of `defaults`, else built in: field by field, `extra` key by key."""
    merged = {**_given(spec.defaults.resources), **_given(step.resources)}
    return Resources(**{**merged, "extra": {**spec.defaults.resources.extra, **step.resources.extra}})


def effective_retry(spec: PipelineSpec, step: StepSpec) -> RetryPolicy:
    """The retry policy of the step, merged in the same way."""
    merged = {**_given(spec.defaults.retry), **_given(step.retry)}
    reasons = merged.pop("on", None)
    return RetryPolicy(**merged, on=None if reasons is None else frozenset(reasons))


def effective_files(spec: PipelineSpec, step: StepSpec) -> dict[str, FileSpec]:
    """The files of the pipeline and of the step, by name."""
    return {**spec.files, **step.files}


def effective_inputs(spec: PipelineSpec, index: int) -> list[tuple[str, InputSpec]]:
    """The inputs of the pipeline and of its step with this number, each with its path in the definition."""
    common = [(path_text(["inputs", number]), entry) for number, entry in enumerate(spec.inputs)]
    own = enumerate(spec.steps[index].inputs)
    return common + [(path_text(["steps", index, "inputs", number]), entry) for number, entry in own]


def all_files(spec: PipelineSpec) -> Iterator[tuple[str, FileSpec]]:
    """Every file of a definition with its path."""
    for name, each in spec.files.items():
        yield path_text(["files", name]), each
    for index, step in enumerate(spec.steps):
        for name, each in step.files.items():
            yield path_text(["steps", index, "files", name]), each


def _given(part: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in part if value is not None}
