"""Holds: pauses and drains pipelines, projects, backends and the whole service, and lists what is paused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Path
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Actor, Body, Ctx, Who
from ccat_workflow_manager.api.openapi import Shape, Time
from ccat_workflow_manager.api.overrides import Terms, Why
from ccat_workflow_manager.api.paging import ProjectName, json_response, listed
from ccat_workflow_manager.api.pipelines import Name as PipelineName
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.holds import visible_holds
from ccat_workflow_manager.definition.project import PROJECT_NAME
from ccat_workflow_manager.lifecycle.holds import Hold, Kind, Mode
from ccat_workflow_manager.lifecycle.waiting import utc_text

router = api_router(tags=["holds"])

ProjectPath = Annotated[str, Path(pattern=PROJECT_NAME)]
BackendName = Annotated[str, Path(max_length=100)]


class HoldRequest(Terms):
    why: Why = Field(description="The reason, which every wait shows that it causes.")
    mode: Mode = Field(
        default=Mode.PAUSE,
        description="`pause` also takes back jobs that wait in the queue of a scheduler; `drain` lets these end.",
    )


class HoldItem(Shape):
    kind: Kind
    name: str = Field(description="Empty for the whole service.")
    mode: Mode
    why: str
    actor: str
    since: Time
    until: Time | None
    text: str = Field(description="All of it as a sentence, and who may end it.")


class HoldList(Shape):
    items: list[HoldItem]


_BODY = openapi.body(HoldRequest, openapi.HOLD_EXAMPLES)


def shown(hold: Hold) -> Mapping[str, Any]:
    times = {"since": utc_text(hold.since), "until": None if hold.until is None else utc_text(hold.until)}
    return asdict(hold) | times | {"text": hold.text()}


def _hold(context: Context, kind: Kind, name: str, body: Body, actor: str) -> Response:
    asked = body.parse(HoldRequest)
    hold = context.holds.hold(kind, name, asked.mode, asked.why, asked.until, actor=actor)
    return json_response(json.dumps(shown(hold)))


def _lift(context: Context, kind: Kind, name: str) -> Response:
    return json_response(json.dumps(shown(context.holds.lift(kind, name))))


@router.get("/holds", response_model=HoldList, responses={304: openapi.not_modified})
def list_holds(context: Ctx, who: Who, project: ProjectName = None) -> Response:
    """What starts nothing now because a person wants it so, the widest first.

    With `project` also what concerns all projects.
    """
    with context.database.read() as unit:
        found = visible_holds(unit, who.within(project))
    return listed(json.dumps({"items": [shown(each) for each in found]}))


@router.post("/pipelines/{name}/pause", response_model=HoldItem, openapi_extra=_BODY)
def pause_pipeline(context: Ctx, actor: Actor, name: PipelineName, body: Body) -> Response:
    """Start no step run of a registered pipeline, in any run, until it is resumed. Replaces a hold that it has."""
    return _hold(context, Kind.PIPELINE, name, body, actor)


@router.post("/pipelines/{name}/resume", response_model=HoldItem)
def resume_pipeline(context: Ctx, name: PipelineName) -> Response:
    """End the hold of a pipeline. Returns the hold as it was."""
    return _lift(context, Kind.PIPELINE, name)


@router.post("/projects/{project}/pause", response_model=HoldItem, openapi_extra=_BODY)
def pause_project(context: Ctx, actor: Actor, project: ProjectPath, body: Body) -> Response:
    """Start no step run of a project until it is resumed. Replaces a hold that it has."""
    return _hold(context, Kind.PROJECT, project, body, actor)


@router.post("/projects/{project}/resume", response_model=HoldItem)
def resume_project(context: Ctx, project: ProjectPath) -> Response:
    """End the hold of a project. Returns the hold as it was."""
    return _lift(context, Kind.PROJECT, project)


@router.post("/backends/{name}/pause", response_model=HoldItem, openapi_extra=_BODY)
def pause_backend(context: Ctx, actor: Actor, name: BackendName, body: Body) -> Response:
    """Start no step run at a backend until it is resumed. Replaces a hold that it has."""
    return _hold(context, Kind.BACKEND, name, body, actor)


@router.post("/backends/{name}/resume", response_model=HoldItem)
def resume_backend(context: Ctx, name: BackendName) -> Response:
    """End the hold of a backend. Returns the hold as it was."""
    return _lift(context, Kind.BACKEND, name)


@router.post("/service/pause", response_model=HoldItem, openapi_extra=_BODY)
def pause_service(context: Ctx, actor: Actor, body: Body) -> Response:
    """Start no step run at all until the service is resumed. Runs can be created meanwhile."""
    return _hold(context, Kind.SERVICE, "", body, actor)


@router.post("/service/resume", response_model=HoldItem)
def resume_service(context: Ctx) -> Response:
    """End the hold of the whole service. Returns the hold as it was."""
    return _lift(context, Kind.SERVICE, "")
