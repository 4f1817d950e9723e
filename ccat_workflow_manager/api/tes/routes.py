"""The calls of TES, below `/ga4gh/tes/v1` and again below `/v1`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from ccat_workflow_manager import __version__
from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Actor, Body, Ctx, Who
from ccat_workflow_manager.api.forwarded import base_url_of
from ccat_workflow_manager.api.paging import decode, encode, json_response, uuid_key
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.api.tes.creating import BACKEND_PARAMETERS, NAME_LABEL, PIPELINE, faults_of_task, run_request
from ccat_workflow_manager.api.tes.documents import State, TesTask, View
from ccat_workflow_manager.api.tes.showing import MOST_PRODUCTS, STATUSES, is_task, state_of, task_of
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries import runs as queries
from ccat_workflow_manager.db.queries.products import run_products_page
from ccat_workflow_manager.db.queries.run_filter import RunFilter, two_values
from ccat_workflow_manager.errors import Fault, Invalid, NotFound

PREFIXES = ("/ga4gh/tes/v1", "/v1")

router = api_router(tags=["tes"])

_Object = dict[str, Any]
"""The schemas of responses are those of TES."""
_KIND = "tes"
_EXAMPLES = {
    "one executor": {
        "value": {"executors": [{"image": "ubuntu:24.04", "command": ["echo", "hi"], "stdout": "/workflow/output/x"}]}
    }
}
_PAGES = {"MINIMAL": 2047, "BASIC": 256, "FULL": 20}
"""The most tasks of a page: those of the larger views cost more."""
_MOST_ROUNDS = 10
"""So many pages of runs are searched for tasks in a state; then the answer may have fewer, and a token to go on."""


@router.get("/service-info", response_model=_Object)
def tes_service_info(context: Ctx) -> Response:
    """What this service is, and what it takes."""
    settings = context.settings
    info = {
        "id": f"ccat-workflow-manager.{settings.deployment or settings.environment}",
        "name": "ccat-workflow-manager",
        "type": {"group": "org.ga4gh", "artifact": "tes", "version": "1.1.0"},
        "organization": {"name": "CCAT Observatory", "url": "https://www.ccatobservatory.org"},
        "version": __version__,
        "storage": list(settings.places_of_inputs),
        "tesResources_backend_parameters": list(BACKEND_PARAMETERS),
    }
    return json_response(json.dumps(info))


@router.post("/tasks", response_model=_Object, openapi_extra=openapi.body(TesTask, _EXAMPLES))
def tes_create_task(context: Ctx, who: Who, body: Body) -> Response:
    """Create a task. What the service cannot do is refused, with the path of the field."""
    task = body.parse(TesTask)
    with faults_of_task():
        request = run_request(task, who, context.settings.disk_limit_gb)
        made = context.submitter.submit(request, actor=who.name, projects=who.projects)
    return json_response(json.dumps({"id": str(made.run_id)}))


@router.get("/tasks", response_model=_Object)
def tes_list_tasks(
    request: Request,
    context: Ctx,
    who: Who,
    name_prefix: Annotated[str, Query(max_length=500)] = "",
    state: State | None = None,
    tag_key: Annotated[list[str], Query(max_length=50)] = [],  # noqa: B006
    tag_value: Annotated[list[str], Query(max_length=50)] = [],  # noqa: B006
    page_size: Annotated[int, Query(ge=1, le=2047)] = 256,
    page_token: Annotated[str | None, Query(max_length=1000)] = None,
    view: View = "MINIMAL",
) -> Response:
    """Tasks, newest first. An empty value matches every value of its tag."""
    if len(tag_value) > len(tag_key):
        raise Invalid(faults=[Fault("tag_value", "are more than there are tag_key")])
    given = list(zip(tag_key, [*tag_value, *[""] * len(tag_key)], strict=False))
    tags = [(name, value) for name, value in given if value]
    if (problem := two_values(tags)) is not None:
        raise Invalid(faults=[Fault("tag_value", problem)])
    wanted = RunFilter(
        visible=who.projects,
        pipeline=PIPELINE,
        status=() if state is None else STATUSES.get(state, ()),
        labels=dict(tags),
        label_prefixes={NAME_LABEL: name_prefix, **{name: "" for name, value in given if not value}},
    )
    after = decode(_KIND, page_token or None, uuid_key)
    runs: list[Mapping[str, Any]] = []
    limit = min(page_size, _PAGES[view])
    more = state != "UNKNOWN"
    for _ in range(_MOST_ROUNDS):
        if not more or len(runs) >= limit:
            break
        with context.database.read() as unit:
            found = [json.loads(row.json) for row in queries.details_page(unit, wanted, after, limit - len(runs))]
        more = len(found) == limit - len(runs)
        runs += [run for run in found if is_task(run) and (state is None or state_of(run) == state)]
        after = UUID(found[-1]["id"]) if found else after
    answer: dict[str, Any] = {"tasks": [_shown(request, context, run, view) for run in runs]}
    if more and after is not None:
        answer["next_page_token"] = encode(_KIND, after)
    return json_response(json.dumps(answer))


@router.get("/tasks/{run_id}", response_model=_Object)
def tes_get_task(request: Request, context: Ctx, run_id: str, view: View = "MINIMAL") -> Response:
    """A task."""
    return json_response(json.dumps(_shown(request, context, _task(context, run_id), view)))


@router.post("/tasks/{run_id}:cancel", response_model=_Object)
def tes_cancel_task(context: Ctx, actor: Actor, run_id: str) -> Response:
    """Cancel a task. It is CANCELING until its jobs are known to be gone."""
    run = _task(context, run_id)
    context.requests.cancel([UUID(run["id"])], actor=actor)
    return json_response("{}")


def _task(context: Context, run_id: str) -> dict[str, Any]:
    """The run of a task. Raises NotFound, also for a run that is no task."""
    try:
        wanted = UUID(run_id)
    except ValueError:
        raise NotFound(f"there is no task {run_id}") from None
    with context.database.read() as unit:
        found = queries.run_detail(unit, wanted)
    run: dict[str, Any] = {} if found is None else json.loads(found.text())
    if not run or not is_task(run):
        raise NotFound(f"there is no task {wanted}")
    return run


def _shown(request: Request, context: Context, run: Mapping[str, Any], view: View) -> dict[str, Any]:
    products: Sequence[Mapping[str, Any]] = ()
    if view != "MINIMAL" and run["started_at"]:
        with context.database.read() as unit:
            products = [json.loads(row.json) for row in run_products_page(unit, UUID(run["id"]), None, MOST_PRODUCTS)]
    return task_of(context, run, view, products, base_url_of(request))
