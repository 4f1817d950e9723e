"""A run as a client requests it: the only definition of its fields, for REST, OpenAPI and Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    model_validator,
)

from ccat_workflow_manager import tracing
from ccat_workflow_manager.db.audit import Change, current
from ccat_workflow_manager.db.session import new_id
from ccat_workflow_manager.definition.messages import given_fields, refuse_if
from ccat_workflow_manager.definition.project import PROJECT_NAME
from ccat_workflow_manager.errors import Conflict
from ccat_workflow_manager.json_values import kind, text_problem
from ccat_workflow_manager.tracing import Trace

MOST_LABELS = 50
KEY_END = "\x1f"
"""Behind the key of a client, in keys that no client can send."""
_MOST_VERSIONS = 2**31 - 1


def storable(text: str) -> str:
    """Validate that PostgreSQL can hold this text."""
    refuse_if(text_problem(text))
    return text


def _version(number: int) -> int:
    refuse_if(None if 0 < number <= _MOST_VERSIONS else "must be the number of a version; the first is 1")
    return number


def _label_name(name: str) -> str:
    refuse_if(text_problem(name))
    refuse_if(None if 0 < len(name) <= 100 else "must have a name of 1 to 100 characters")
    refuse_if("must not have a colon in its name: filters are written name:value" if ":" in name else None)
    return name


def _label_value(value: str) -> str:
    refuse_if(text_problem(value))
    refuse_if(None if len(value) <= 500 else f"must have at most 500 characters; it has {len(value)}")
    return value


def moment(value: object) -> datetime:
    """A time of a request, in UTC."""
    refuse_if(None if isinstance(value, str) else f"must be a string, not {kind(value)}")
    try:
        found = datetime.fromisoformat(str(value))
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        refuse_if("must be a time like 2026-01-31T12:00:00Z (in a URL, write + as %2B)")
        raise


def _few(labels: object) -> object:
    if isinstance(labels, dict) and len(labels) > MOST_LABELS:
        refuse_if(f"must have at most {MOST_LABELS} entries; it has {len(labels)}")
    return labels


Text = Annotated[StrictStr, AfterValidator(storable)]
"""Text that PostgreSQL can hold."""
Moment = Annotated[datetime, BeforeValidator(moment)]
"""A time, in UTC."""
Priority = Annotated[StrictInt, Field(ge=-1000, le=1000)]
Project = Annotated[StrictStr, Field(pattern=PROJECT_NAME)]

_Version = Annotated[StrictInt, AfterValidator(_version)]
_Labels = Annotated[
    dict[Annotated[StrictStr, AfterValidator(_label_name)], Annotated[StrictStr, AfterValidator(_label_value)]],
    BeforeValidator(_few),
]


class LabelChange(BaseModel):
    """Labels to set and names of labels to remove."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: _Labels = {}
    remove: list[Text] = []


class RunRequest(BaseModel):
    """A run of a pipeline by name, or of an inline definition (`spec`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: Text | None = Field(default=None, description="Name of a registered pipeline.")
    version: _Version | None = Field(default=None, description="Default: its newest version.")
    spec: dict[str, Any] | None = Field(default=None, description="An inline PipelineSpec instead of a name.")
    parameters: dict[str, Any] = Field(default={}, description="Checked by the JSON Schema of the pipeline.")
    project: Project | None = Field(default=None, description="Default: the pipeline's.")
    priority: Priority | None = Field(default=None, description="Default: the pipeline's.")
    labels: _Labels = Field(default={}, description="Up to 50, to find the run by.")
    backend: Text | None = Field(default=None, description="For steps that name no backend.")

    reuse: UUID | None = Field(
        default=None, description="A run whose products are taken over where nothing that decides them has changed."
    )

    _given = model_validator(mode="before")(given_fields)

    def digest(self) -> str:
        """Equal for equal requests; decides whether an Idempotency-Key is used for the same request again."""
        return hashlib.sha256(json.dumps(dict(self), sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RunSubmission:
    """A request with its sender and its idempotency key."""

    request: RunRequest
    actor: str
    key: str | None = None
    run_id: UUID = field(default_factory=new_id, compare=False)
    """Chosen before the first try, so that a second try finds what the first one committed."""
    change: Change | None = field(default_factory=current, compare=False)
    """The present request, for the audit: another request may carry this one out."""
    trace: Trace | None = field(default_factory=tracing.current, compare=False)
    bulk_digest: str | None = None
    """Digest of all requests of a bulk call with a key."""

    @property
    def digest(self) -> str | None:
        return None if self.key is None else self.bulk_digest or self.request.digest()

    def made_before(self, known: Mapping[tuple[str, str], tuple[UUID, str]]) -> UUID | None:
        """The run of an earlier request with this key. Raises Conflict if that request was another one."""
        if self.key is None or (self.actor, self.key) not in known:
            return None
        run_id, digest = known[self.actor, self.key]
        if digest != self.digest:
            used = f"the Idempotency-Key {self.key.partition(KEY_END)[0]!r} was used for another request"
            raise Conflict(f"{used}; choose a new key, or repeat that request")
        return run_id


def submissions_of_bulk(requests: Sequence[RunRequest], actor: str, key: str | None) -> list[RunSubmission]:
    """The submissions of one bulk call. The first has the key itself, the others have keys that no client can send."""
    if key is None:
        return [RunSubmission(request, actor) for request in requests]
    digest = hashlib.sha256("".join(request.digest() for request in requests).encode()).hexdigest()
    return [
        RunSubmission(request, actor, f"{key}{KEY_END}{index}" if index else key, bulk_digest=digest)
        for index, request in enumerate(requests)
    ]
