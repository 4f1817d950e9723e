"""Overrides: lists what ends by itself, and ends it before its time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, Field, StrictStr
from starlette.responses import Response

from ccat_workflow_manager.api.dependencies import Ctx, Who
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    ProjectName,
    decode,
    json_response,
    number_key,
    page,
)
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.db.queries import Row
from ccat_workflow_manager.db.queries.overrides import overrides_page
from ccat_workflow_manager.lifecycle.overrides import Changed, Override, Term
from ccat_workflow_manager.lifecycle.waiting import utc_text
from ccat_workflow_manager.services.run_request import Moment, storable

router = api_router(prefix="/overrides", tags=["overrides"])

Why = Annotated[StrictStr, Field(min_length=1, max_length=1000), AfterValidator(storable)]


class Terms(Shape):
    """The body of a change that may end by itself, or a part of it."""

    why: Why | None = Field(default=None, description="The reason, for the audit and for those whom it concerns.")
    until: Moment | None = Field(default=None, description="When it ends by itself. Default: never.")

    def term(self, actor: str) -> Term:
        return Term(actor, self.why, self.until)


class OverrideItem(Shape):
    id: int
    kind: Changed
    name: str = Field(description="A name, or an id.")
    field: str = Field(description="What is changed of it.")
    project: str
    before: Any = Field(description="The value that it gets again.")
    value: Any
    why: str | None
    actor: str
    since: Time
    until: Time
    text: str = Field(description="All of it as a sentence.")


class OverridePage(Page):
    items: list[OverrideItem]


def shown(override: Override) -> Mapping[str, Any]:
    fields = asdict(override) | {"since": utc_text(override.since), "until": utc_text(override.until)}
    return {name: value for name, value in fields.items() if name != "title"} | {"text": override.text()}


@router.get("", response_model=OverridePage)
def list_overrides(
    context: Ctx, who: Who, project: ProjectName = None, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """What is changed until a certain time, the oldest change first."""
    after = decode("overrides", cursor, number_key)
    with context.database.read() as unit:
        found = overrides_page(unit, after or 0, limit + 1, projects=who.within(project))
    return page("overrides", [Row(each.id, json.dumps(shown(each))) for each in found], limit)


@router.delete("/{override_id}", response_model=OverrideItem)
def end_override(context: Ctx, override_id: Annotated[int, Path(ge=1, le=2**63 - 1)]) -> Response:
    """End an override now: what it changed is as before. Returns the override as it was."""
    return json_response(json.dumps(shown(context.overrides.end(override_id))))
