"""Projects: lists them with what they use, and sets their weights and limits."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, StrictFloat, StrictInt
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Actor, Body, Ctx, Who
from ccat_workflow_manager.api.holds import ProjectPath
from ccat_workflow_manager.api.openapi import Page, Shape
from ccat_workflow_manager.api.overrides import Terms
from ccat_workflow_manager.api.paging import DEFAULT_LIMIT, Cursor, Limit, decode, json_response, page, text_key
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.db.queries import projects as queries
from ccat_workflow_manager.definition.project import PROJECT_NAME
from ccat_workflow_manager.errors import Fault, Invalid, NotFound

router = api_router(prefix="/projects", tags=["projects"])

_Count = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]
_Number = StrictInt | StrictFloat


class ProjectRequest(Terms):
    weight: Annotated[_Number, Field(ge=0.001, le=1000)] = Field(
        default=1, description="Its share of what is launched while other projects have work, too."
    )
    max_live: _Count | None = Field(default=None, description="Step runs that have a job at once. Default: any number.")
    max_cpus: Annotated[_Number, Field(ge=0, le=1e9)] | None = Field(
        default=None, description="CPUs that these jobs have together. Default: any number."
    )
    max_queued: _Count | None = Field(
        default=None, description="Step runs that may be PENDING; more are refused. Default: any number."
    )

    def limits(self, *, given_only: bool) -> dict[str, Any]:
        """The weight and the limits, without why and until when."""
        return self.model_dump(exclude={*Terms.model_fields}, exclude_unset=given_only)


class Project(Shape):
    name: str = Field(pattern=PROJECT_NAME)
    weight: float
    max_live: int | None
    max_cpus: float | None
    max_queued: int | None
    live: int = Field(description="Step runs that have a job now, or are about to get one.")
    cpus: float = Field(description="CPUs of these jobs.")
    queued: int = Field(description="Step runs that are PENDING.")


class ProjectPage(Page):
    items: list[Project]


@router.get("", response_model=ProjectPage)
def list_projects(context: Ctx, who: Who, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Projects with a pipeline, a run or limits, by name."""
    after = decode("projects", cursor, text_key)
    with context.database.read() as unit:
        found = queries.projects_page(unit, after, limit + 1, projects=who.projects)
    return page("projects", found, limit)


@router.get("/{project}", response_model=Project)
def get_project(context: Ctx, project: ProjectPath) -> Response:
    """A project with its limits and what it uses of them."""
    with context.database.read() as unit:
        text = queries.project_detail(unit, project)
    if text is None:
        raise NotFound(f"there is no project {project}")
    return json_response(text)


@router.put("/{project}", response_model=Project, openapi_extra=openapi.body(ProjectRequest, openapi.PROJECT_EXAMPLES))
def put_project(context: Ctx, actor: Actor, project: ProjectPath, body: Body) -> Response:
    """Set the weight and the limits of a project; what is not given gets its default.

    What has a job already goes on, also above a new limit. With `until`, all is as before from then on.
    """
    asked = body.parse(ProjectRequest)
    found = context.projects.set(project, asked.limits(given_only=False), asked.term(actor))
    return json_response(json.dumps(found))


@router.patch("/{project}", response_model=Project, openapi_extra=openapi.body(ProjectRequest, openapi.LIMIT_EXAMPLES))
def change_project(context: Ctx, actor: Actor, project: ProjectPath, body: Body) -> Response:
    """Set what is given of the weight and the limits of a project; the rest stays."""
    asked = body.parse(ProjectRequest)
    values = asked.limits(given_only=True)
    if not values:
        raise Invalid(faults=[Fault("", "give `weight`, `max_live`, `max_cpus` or `max_queued`")])
    return json_response(json.dumps(context.projects.set(project, values, asked.term(actor))))
