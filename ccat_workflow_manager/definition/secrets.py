"""Secrets: variables whose values are not in the definition, `environment: {TOKEN: {secret: archive-token}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StrictStr, Tag

from ccat_workflow_manager.definition.messages import refuse_if
from ccat_workflow_manager.json_values import shown

SECRET_NAME = r"[a-z0-9]+(-[a-z0-9]+)*"
"""No two hyphens in a row: the name of the variable that may hold a secret in the worker's environment is unique."""
_NAME = re.compile(SECRET_NAME)
_LONGEST = 63
_TEXT, _SECRET = "{text}", "{secret}"


def _name(name: str) -> str:
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        refuse_if(
            f"must be the name of a secret: lower-case letters and digits with single hyphens between them, at most "
            f"{_LONGEST}, not {shown(name)}"
        )
    return name


class SecretRef(BaseModel):
    """The name of a secret of the run's project."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secret: Annotated[
        StrictStr,
        AfterValidator(_name),
        Field(json_schema_extra={"pattern": f"^{SECRET_NAME}$", "maxLength": _LONGEST}),
    ]


def _kind(value: Any) -> str:
    return _SECRET if isinstance(value, dict | SecretRef) else _TEXT


EnvironmentValue = Annotated[
    Annotated[StrictStr, Tag(_TEXT)] | Annotated[SecretRef, Tag(_SECRET)], Discriminator(_kind)
]
"""The value of a variable: a text, or the name of a secret."""


def texts_of(environment: Mapping[str, str | SecretRef]) -> dict[str, str]:
    """The variables with values of their own."""
    return {name: value for name, value in environment.items() if isinstance(value, str)}


def secrets_of(environment: Mapping[str, str | SecretRef]) -> dict[str, str]:
    """The name of the secret of each variable that holds one."""
    return {name: value.secret for name, value in environment.items() if isinstance(value, SecretRef)}
