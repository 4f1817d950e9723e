"""Pipelines: registering, changing and reading definitions."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from ccat_workflow_manager.api import models
from ccat_workflow_manager.api import openapi as documented
from ccat_workflow_manager.api.body import Body, Fields
from ccat_workflow_manager.api.dependencies import PREFIX, Ctx, read_one
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode,
    json_response,
    number_key,
    page,
    text_key,
)
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.views import pipelines as views
from ccat_workflow_manager.definition.spec import PIPELINE_NAME
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.services.catalogue import PipelineChange
from ccat_workflow_manager.services.requests import PRIORITIES

router = APIRouter(prefix="/pipelines", tags=["pipelines"])

Name = Annotated[str, Path(pattern=PIPELINE_NAME)]


def _changed(context: Context, change: PipelineChange, definition: object) -> Response:
    text = read_one(context, "pipeline", views.pipeline_detail, change.name)
    text = f'{text[:-1]},"warnings":{json.dumps(context.queue_hints.about(definition))}}}'
    if not change.changed:
        return json_response(text)
    return json_response(text, 201, {"Location": f"{PREFIX}/pipelines/{change.name}"})


@router.post(
    "",
    status_code=201,
    response_model=models.AppliedPipeline,
    responses={200: documented.same_pipeline},
    openapi_extra=documented.definition,
)
def create_pipeline(context: Ctx, body: Body) -> Response:
    """Register a pipeline: 201 if it is new, 200 if it is there with equal content, 409 with other content."""
    definition = body.definition()
    return _changed(context, context.catalogue.apply(definition, create_only=True), definition)


@router.put(
    "/{name}",
    status_code=201,
    response_model=models.AppliedPipeline,
    responses={200: documented.same_pipeline},
    openapi_extra=documented.definition,
)
def put_pipeline(context: Ctx, name: Name, body: Body, dry_run: bool = False) -> Response:
    """Make this the newest version (201); with equal content nothing changes (200).

    With `dry_run=true` nothing changes in any case, and the answer says what would:
    `{name, version, changed, diff, warnings}`.
    """
    definition = body.definition()
    if dry_run:
        plan = context.catalogue.plan(definition, name=name)
        said = {"name": plan.name, "version": plan.version, "changed": plan.changed, "diff": plan.diff}
        return json_response(json.dumps({**said, "warnings": context.queue_hints.about(definition)}))
    return _changed(context, context.catalogue.apply(definition, name=name), definition)


@router.get("", response_model=models.PipelinePage)
def list_pipelines(context: Ctx, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Pipelines by name, without their definitions."""
    after = decode("pipelines", cursor, text_key)
    with context.database.read() as unit:
        found = views.pipelines_page(unit, after, limit + 1)
    return page("pipelines", found, limit)


@router.get("/{name}", response_model=models.Pipeline)
def get_pipeline(context: Ctx, name: Name) -> Response:
    """A pipeline with its newest definition."""
    return json_response(read_one(context, "pipeline", views.pipeline_detail, name))


@router.get("/{name}/versions", response_model=models.VersionPage)
def list_versions(context: Ctx, name: Name, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Every version with its definition, newest first."""
    after = decode("versions", cursor, number_key)
    with context.database.read() as unit:
        found = views.versions_page(unit, name, after, limit + 1)
        if not found and views.pipeline_detail(unit, name) is None:
            raise NotFound(f"there is no pipeline {name}")
    return page("versions", found, limit)


@router.patch(
    "/{name}",
    response_model=models.Pipeline,
    openapi_extra=documented.body("PipelinePatch", documented.PATCH_EXAMPLES),
)
def change_pipeline(context: Ctx, name: Name, body: Body) -> Response:
    """Enable or disable a pipeline, or set the priority of its future runs."""
    value = body.json_object()
    fields = Fields(value, ("enabled", "priority"))
    enabled, priority = fields.truth("enabled"), fields.whole("priority")
    if enabled is None and priority is None and not fields.faults:
        fields.fault("", "say what to change: `enabled`, `priority` or both")
    if priority is not None and priority not in PRIORITIES:
        fields.fault("priority", f"is {priority}; allowed are {PRIORITIES.start} to {PRIORITIES.stop - 1}")
    fields.check()
    context.catalogue.change(name, enabled=enabled, priority=priority)
    return json_response(read_one(context, "pipeline", views.pipeline_detail, name))
