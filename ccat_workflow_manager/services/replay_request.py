"""A replay as a client requests it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, model_validator

from ccat_workflow_manager.definition.messages import given_fields, refuse_if
from ccat_workflow_manager.json_values import kind, shown
from ccat_workflow_manager.services.run_request import Text

_MOST_VERSIONS = 2**31 - 1


class From(BaseModel):
    """A step, or step runs by their keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: Text | None = Field(default=None, description="This step; with `keys`, only these of its step runs.")
    keys: list[Text] | None = Field(
        default=None, min_length=1, max_length=5000, description="Step runs with these keys."
    )


def _start(value: object) -> object:
    words = "must be failed, the name of a step, or a mapping of step and keys"
    refuse_if(None if isinstance(value, str | dict | From) else f"{words}; not {kind(value)}")
    return value


def _version(value: object) -> object:
    is_number = type(value) is int and 0 < value <= _MOST_VERSIONS
    words = f"must be same, latest or the number of a version, not {shown(value)}"
    refuse_if(None if is_number or value in ("same", "latest") else words)
    return value


def _yes_or_no(value: object) -> object:
    return {"yes": True, "no": False}.get(value, value) if isinstance(value, str) else value


class ReplayOptions(BaseModel):
    """How runs are replayed."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    from_: Annotated[Literal["failed"] | From | Text, BeforeValidator(_start)] = Field(
        default="failed",
        alias="from",
        description="What is started again: `failed` (what did not complete), the name of a step, or step runs by keys."
        " What depends on it is started again, too.",
    )
    version: Annotated[
        Literal["same", "latest"] | Annotated[StrictInt, Field(ge=1, le=_MOST_VERSIONS)], BeforeValidator(_version)
    ] = "same"
    parameters: dict[str, Any] = Field(default={}, description="A JSON merge patch: null removes a parameter.")
    reuse: Annotated[StrictBool, BeforeValidator(_yes_or_no, json_schema_input_type=bool | Literal["yes", "no"])] = (
        Field(default=True, description="Take over the products of what is not started again.")
    )
    dry_run: StrictBool = Field(default=False, description="Only say what would happen.")

    _given = model_validator(mode="before")(given_fields)

    @property
    def start(self) -> From | None:
        """The step or keys from which to start. None: only what did not complete."""
        match self.from_:
            case "failed":
                return None
            case From() as given:
                return given
            case name:
                return From(step=name)

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def merged(parameters: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON merge patch (RFC 7396) applied to parameters."""
    result = dict(parameters)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            before = result.get(name)
            result[name] = merged(before if isinstance(before, dict) else {}, value)
        else:
            result[name] = value
    return result
