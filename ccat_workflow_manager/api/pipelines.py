"""Pipelines: registers, changes and lists definitions."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Path
from pydantic import Field, StrictBool
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import PREFIX, Actor, Body, Ctx, Who
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.overrides import Terms
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    ProjectName,
    decode,
    json_response,
    number_key,
    page,
    read_one,
    text_key,
)
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries import pipelines as queries
from ccat_workflow_manager.definition.spec import PIPELINE_NAME
from ccat_workflow_manager.errors import Fault, Invalid, NotFound
from ccat_workflow_manager.services.catalogue import PipelineChange
from ccat_workflow_manager.services.run_request import Priority

router = api_router(prefix="/pipelines", tags=["pipelines"])

Name = Annotated[str, Path(pattern=PIPELINE_NAME)]


class PipelinePatch(Terms):
    enabled: StrictBool | None = None
    priority: Priority | None = None


class PipelineItem(Shape):
    name: str
    project: str
    version: int
    description: str
    enabled: bool
    priority: int
    content_hash: str
    created_at: Time
    updated_at: Time


class Pipeline(PipelineItem):
    definition: dict[str, Any]


class AppliedPipeline(Pipeline):
    warnings: list[str] = Field(
        description="No image, an unknown backend, resources that no queue seems to offer. It is applied all the same."
    )


class PipelineVersion(Shape):
    name: str
    version: int
    description: str
    content_hash: str
    created_at: Time
    definition: dict[str, Any]


class PipelinePage(Page):
    items: list[PipelineItem]


class VersionPage(Page):
    items: list[PipelineVersion]


_SAME: dict[str, Any] = {"model": AppliedPipeline, "description": "It exists already, with equal content"}


def _changed(context: Context, change: PipelineChange, definition: object) -> Response:
    text = read_one(context, "pipeline", queries.pipeline_detail, change.name)
    text = f'{text[:-1]},"warnings":{json.dumps(context.queue_hints.about(definition))}}}'
    if not change.changed:
        return json_response(text)
    return json_response(text, 201, {"Location": f"{PREFIX}/pipelines/{change.name}"})


@router.post(
    "",
    status_code=201,
    response_model=AppliedPipeline,
    responses={200: _SAME},
    openapi_extra=openapi.definition,
)
def create_pipeline(context: Ctx, who: Who, body: Body) -> Response:
    """Register a pipeline: 201 if it is new, 200 if it exists with equal content, 409 if with other content."""
    definition = body.definition()
    return _changed(context, context.catalogue.apply(definition, create_only=True, projects=who.projects), definition)


@router.put(
    "/{name}",
    status_code=201,
    response_model=AppliedPipeline,
    responses={200: _SAME},
    openapi_extra=openapi.definition,
)
def put_pipeline(context: Ctx, who: Who, name: Name, body: Body, dry_run: bool = False) -> Response:
    """Add a version of a pipeline (201); equal content changes nothing (200).

    With `dry_run=true` nothing changes in any case. The response is the change that would be made:
    `{name, version, changed, diff, warnings}`.
    """
    definition = body.definition()
    if dry_run:
        plan = context.catalogue.plan(definition, name=name, projects=who.projects)
        return json_response(json.dumps({**asdict(plan), "warnings": context.queue_hints.about(definition)}))
    return _changed(context, context.catalogue.apply(definition, name=name, projects=who.projects), definition)


@router.get("", response_model=PipelinePage)
def list_pipelines(
    context: Ctx, who: Who, project: ProjectName = None, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """Pipelines by name, without their definitions."""
    after = decode("pipelines", cursor, text_key)
    with context.database.read() as unit:
        found = queries.pipelines_page(unit, after, limit + 1, project=project, projects=who.projects)
    return page("pipelines", found, limit)


@router.get("/{name}", response_model=Pipeline)
def get_pipeline(context: Ctx, name: Name) -> Response:
    """A pipeline with its newest definition."""
    return json_response(read_one(context, "pipeline", queries.pipeline_detail, name))


@router.get("/{name}/versions", response_model=VersionPage)
def list_versions(context: Ctx, name: Name, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Every version with its definition, newest first."""
    after = decode("versions", cursor, number_key)
    with context.database.read() as unit:
        found = queries.versions_page(unit, name, after, limit + 1)
        if not found and queries.pipeline_detail(unit, name) is None:
            raise NotFound(f"there is no pipeline {name}")
    return page("versions", found, limit)


@router.patch(
    "/{name}",
    response_model=Pipeline,
    openapi_extra=openapi.body(PipelinePatch, openapi.PATCH_EXAMPLES),
)
def change_pipeline(context: Ctx, actor: Actor, name: Name, body: Body) -> Response:
    """Enable or disable a pipeline, or set the priority of its future runs; with `until`, as before from then on."""
    patch = body.parse(PipelinePatch)
    if patch.enabled is None and patch.priority is None:
        raise Invalid(faults=[Fault("", "give `enabled`, `priority` or both")])
    context.catalogue.change(name, enabled=patch.enabled, priority=patch.priority, term=patch.term(actor))
    return json_response(read_one(context, "pipeline", queries.pipeline_detail, name))
