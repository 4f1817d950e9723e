"""How a request chooses runs: by their ids, or by a filter."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictStr

from ccat_workflow_manager.api.openapi import Shape
from ccat_workflow_manager.db.queries.run_filter import RunFilter, two_values
from ccat_workflow_manager.definition.messages import refuse_if
from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.lifecycle.states import RunStatus
from ccat_workflow_manager.services.run_request import Moment, Project, Text, storable


def _as_list(value: object) -> object:
    return value if value is None or isinstance(value, list) else [value]


def _label(text: str) -> str:
    name, colon, _ = text.partition(":")
    refuse_if(None if name and colon else "must be written name:value")
    return storable(text)


def _one_value_each(labels: list[str] | None) -> list[str] | None:
    refuse_if(two_values(map(_divided, labels or ())))
    return labels


class RunFilterBody(Shape):
    """All conditions hold together; at least one is needed."""

    status: Annotated[
        list[RunStatus] | None, BeforeValidator(_as_list, json_schema_input_type=RunStatus | list[RunStatus] | None)
    ] = None
    project: Project | None = None
    pipeline: Text | None = None
    label: Annotated[
        list[Annotated[StrictStr, AfterValidator(_label)]] | None,
        BeforeValidator(_as_list, json_schema_input_type=str | list[str] | None),
        AfterValidator(_one_value_each),
    ] = Field(default=None, description="`name:value`")
    created_after: Moment | None = None
    created_before: Moment | None = None
    caveats: StrictBool | None = Field(default=None, description="Whether there are caveats.")
    q: Annotated[StrictStr, Field(max_length=200), AfterValidator(storable)] | None = None

    def filter(self, who: Identity) -> RunFilter:
        return RunFilter(
            visible=who.projects,
            status=tuple(dict.fromkeys(self.status or ())),
            project=self.project,
            pipeline=self.pipeline,
            labels=dict(_divided(label) for label in self.label or ()),
            created_after=self.created_after,
            caveats=self.caveats,
            created_before=self.created_before,
            q=self.q or None,
        )


def _divided(label: str) -> tuple[str, str]:
    name, _, value = label.partition(":")
    return name, value


class RunChoice(Shape):
    """Either ids or a filter."""

    ids: list[UUID] | None = Field(default=None, min_length=1, max_length=5000)
    filter: RunFilterBody | None = None
