"""Runs: creates, lists, cancels, retries, pauses and resumes them, one at a time."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Header, Query, Request
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import PREFIX, Actor, Body, Ctx, IdempotencyKey, Who
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.overrides import Terms
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    ProjectName,
    decode,
    encode,
    etag_of,
    json_response,
    matches,
    not_modified,
    page,
    tagged,
    uuid_key,
)
from ccat_workflow_manager.api.products import Caveat, ProductPage
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.api.run_choice import RunFilterBody
from ccat_workflow_manager.api.run_watch import RunWatch, Until, wait_seconds
from ccat_workflow_manager.api.step_runs import StepRun, StepRunPage
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries import runs as queries
from ccat_workflow_manager.db.queries.products import run_products_page
from ccat_workflow_manager.db.queries.step_runs import run_step_runs_page
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Conflict, Fault, Invalid, NotFound
from ccat_workflow_manager.execution.declarations import ProductType
from ccat_workflow_manager.lifecycle.states import RunStatus, Status
from ccat_workflow_manager.limits import limits
from ccat_workflow_manager.services.retry_request import AS_BEFORE, RetryRequest
from ccat_workflow_manager.services.run_request import Priority, RunRequest, Text
from ccat_workflow_manager.threads import in_thread

router = api_router(prefix="/runs", tags=["runs"])

F = TypeVar("F")

_KIND = "runs"
_STEP_RUNS = "run-step-runs"


# --- models of responses --------------------------------------------------------------------------------------------


class Counts(Shape):
    """Step runs by status."""

    PENDING: int
    STAGING_DATA: int
    SUBMITTED: int
    RUNNING: int
    COLLECTING_RESULTS: int
    COMPLETED: int
    FAILED: int
    CANCELLED: int
    SKIPPED: int


class RunItem(Shape):
    """A run as lists show it."""

    id: UUID
    pipeline: str
    pipeline_version: int | None = Field(description="null: an inline definition.")
    project: str
    status: RunStatus
    status_reason: str | None
    cancel_requested_at: Time | None
    paused: bool
    parameters: dict[str, Any]
    labels: dict[str, str]
    priority: int
    backend: str | None
    created_by: str
    replay_of: UUID | None = Field(description="The run that it repeats.")
    reuse: UUID | None = Field(description="The run whose products it takes over where nothing has changed.")
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    counts: Counts
    caveat_count: int = Field(description="How many caveats its completed step runs have.")
    caveats: list[Caveat] = Field(description="The first 50 of them.")


class Run(RunItem):
    step_runs: list[StepRun] = Field(description="The first `LISTED_STEP_RUNS` of the site; `counts` counts all.")
    step_runs_next: str | None = Field(
        description="`cursor` of `GET /runs/{id}/step-runs` for the step runs that are not in this list; null: none."
    )


class PriorityRequest(Terms):
    priority: Priority


class RunPage(Page):
    items: list[RunItem]


_SAME_RUN: dict[str, Any] = {"model": Run, "description": "The run that the same request created before"}


# --- one run --------------------------------------------------------------------------------------------------------


def _run(context: Context, run_id: UUID) -> str:
    with context.database.read() as unit:
        return _text(_found(run_id, queries.run_detail(unit, run_id)))


def _found(run_id: UUID, found: F | None) -> F:
    if found is None:
        raise NotFound(f"there is no run {run_id}")
    return found


def _text(found: queries.RunDetail) -> str:
    return found.text(lambda last: encode(_STEP_RUNS, last))


@router.post(
    "",
    status_code=202,
    response_model=Run,
    responses={200: _SAME_RUN},
    openapi_extra=openapi.body(RunRequest, openapi.RUN_EXAMPLES),
)
def create_run(context: Ctx, who: Who, body: Body, key: IdempotencyKey = None) -> Response:
    """Create a run of a pipeline, or of an inline definition.

    With an `Idempotency-Key`, the same key and body give the same run (200); the same key with another body, 409.
    """
    made = context.submitter.submit(body.parse(RunRequest), actor=who.name, projects=who.projects, idempotency_key=key)
    status = 202 if made.is_new else 200
    return json_response(made.shown or _run(context, made.run_id), status, {"Location": f"{PREFIX}/runs/{made.run_id}"})


@router.get("", response_model=RunPage)
def list_runs(
    context: Ctx,
    who: Who,
    status: Annotated[list[str], Query(description="PENDING, RUNNING, ... May be repeated.")] = [],  # noqa: B006
    project: ProjectName = None,
    pipeline: str | None = None,
    label: Annotated[list[str], Query(description="`name:value`. May be repeated.")] = [],  # noqa: B006
    created_after: Annotated[str | None, Query(description="RFC 3339.")] = None,
    created_before: Annotated[str | None, Query(description="RFC 3339.")] = None,
    caveats: Annotated[bool | None, Query(description="Whether there are caveats, such as tolerated losses.")] = None,
    q: Annotated[str | None, Query(description="Part of pipeline, label or reason, or an end of an id.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Runs without their step runs, newest first."""
    query: dict[str, object] = {
        "status": _one_or_all(status),
        "label": _one_or_all(label),
        "created_after": created_after,
        "created_before": created_before,
    }
    query |= {"project": project, "pipeline": pipeline, "caveats": caveats, "q": q}
    wanted = validated(RunFilterBody, query).filter(who)
    after = decode(_KIND, cursor, uuid_key)
    with context.database.read() as unit:
        found = queries.runs_page(unit, wanted, after, limit + 1)
    return page(_KIND, found, limit)


def _one_or_all(values: list[str]) -> str | list[str]:
    # The path of a fault has an index only if the parameter is repeated.
    return values[0] if len(values) == 1 else values


@router.get("/{run_id}", response_model=Run, responses={304: openapi.not_modified})
async def get_run(
    request: Request,
    context: Ctx,
    run_id: UUID,
    wait: Annotated[str | None, Query(description="Answer later, after at most this time: 30s. At most 60s.")] = None,
    until: Annotated[Until | None, Query(description="With `wait`: answer before that once the run is so.")] = None,
    step_runs: Annotated[int | None, Query(ge=0, description="List so many step runs at most.")] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A run with its step runs; with `wait`, once it is finished, or once it has changed.

    With an `If-None-Match` of an earlier answer, the run is sent only if it has changed since (else 304).
    """
    most = min(limits().listed_step_runs if step_runs is None else step_runs, limits().listed_step_runs)
    seconds = 0.0 if wait is None else wait_seconds(wait)
    if wait is None and until is not None:
        raise Invalid(faults=[Fault("wait", "is needed together with `until`, like 30s")])
    since, response = await in_thread(_run_response, context, run_id, most, if_none_match)
    if seconds == 0 or since.finished or (until == "changed" and if_none_match and response.status_code != 304):
        return response
    watch: RunWatch = request.app.state.run_watch
    await watch.wait(run_id, since, until or "finished", seconds)
    _, response = await in_thread(_run_response, context, run_id, most, if_none_match)
    return response


def _run_response(
    context: Context, run_id: UUID, most: int, if_none_match: str | None
) -> tuple[queries.RunVersion, Response]:
    """The version of a run, and the run itself unless the client has it already.

    What waits in a run may change without the run, so only of a finished one its row is the version.
    """
    with context.database.read() as unit:
        if if_none_match is not None:
            version = _found(run_id, queries.run_versions(unit, [run_id]).get(run_id))
            if version.finished and matches(if_none_match, etag := _etag(run_id, version, most)):
                return version, not_modified(etag)
        found = _found(run_id, queries.run_detail(unit, run_id, most))
    version, text = found.state, _text(found)
    etag = _etag(run_id, version, most) if version.finished else etag_of(text)
    return version, not_modified(etag) if matches(if_none_match, etag) else tagged(text, etag)


def _etag(run_id: UUID, version: queries.RunVersion, most: int) -> str:
    """The ETag of a finished run."""
    return etag_of(f"{run_id} {version.row} {most}")


@router.post("/{run_id}/cancel", status_code=202, response_model=Run)
def cancel_run(context: Ctx, actor: Actor, run_id: UUID) -> Response:
    """Request the cancellation of a run. A step run is CANCELLED once its job is known to be gone."""
    context.requests.cancel([run_id], actor=actor)
    return json_response(_run(context, run_id), 202)


@router.post(
    "/{run_id}/retry",
    status_code=202,
    response_model=Run,
    openapi_extra=openapi.body(RetryRequest, openapi.RETRY_EXAMPLES, required=False),
)
def retry_run(context: Ctx, actor: Actor, run_id: UUID, body: Body) -> Response:
    """Retry the step runs that did not complete; with `step`, those of this step, with other resources or elsewhere."""
    request = body.parse_optional(RetryRequest)
    if request.step is not None:
        context.requests.retry_step(run_id, request, actor=actor)
        return json_response(_run(context, run_id), 202)
    if request != AS_BEFORE:
        raise Invalid(faults=[Fault("step", "is needed: it names the step whose step runs are retried like this")])
    if not context.requests.retry([run_id], actor=actor):
        raise Conflict("nothing to retry: no step run of this run failed, was cancelled or was skipped")
    return json_response(_run(context, run_id), 202)


@router.post(
    "/{run_id}/pause",
    status_code=202,
    response_model=Run,
    openapi_extra=openapi.body(Terms, openapi.TERM_EXAMPLES, required=False),
)
def pause_run(context: Ctx, actor: Actor, run_id: UUID, body: Body) -> Response:
    """Hold back the step runs that are not launched yet."""
    asked = body.parse_optional(Terms)
    if not context.requests.pause([run_id], paused=True, term=asked.term(actor)):
        raise Conflict("this run is finished and cannot be paused")
    return json_response(_run(context, run_id), 202)


@router.post(
    "/{run_id}/priority",
    status_code=202,
    response_model=Run,
    openapi_extra=openapi.body(PriorityRequest, openapi.PRIORITY_EXAMPLES),
)
def set_run_priority(context: Ctx, actor: Actor, run_id: UUID, body: Body) -> Response:
    """Set the priority of what is not launched yet: a higher one is launched first. With `until`, as before then."""
    asked = body.parse(PriorityRequest)
    if not context.requests.set_priority([run_id], asked.priority, asked.term(actor)):
        raise Conflict("this run is finished; its priority has no meaning any more")
    return json_response(_run(context, run_id), 202)


@router.post("/{run_id}/resume", status_code=202, response_model=Run)
def resume_run(context: Ctx, run_id: UUID) -> Response:
    """Release the step runs of a paused run."""
    context.requests.pause([run_id], paused=False)
    return json_response(_run(context, run_id), 202)


@router.get("/{run_id}/step-runs", response_model=StepRunPage)
def list_run_step_runs(
    context: Ctx,
    run_id: UUID,
    step: Annotated[Text | None, Query(description="Step runs of this step.")] = None,
    key: Annotated[Text | None, Query(description="With this key; `*` and `?` stand for any text.")] = None,
    status: Annotated[list[Status], Query(description="PENDING, RUNNING, ... May be repeated.")] = [],  # noqa: B006
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """The step runs in the order of the pipeline."""
    after = decode(_STEP_RUNS, cursor, uuid_key)
    with context.database.read() as unit:
        unit.snapshot()
        found = run_step_runs_page(unit, run_id, after, limit + 1, step=step, key=key, statuses=status)
        if not found and not queries.existing_runs(unit, [run_id]):
            raise NotFound(f"there is no run {run_id}")
    return page(_STEP_RUNS, found, limit)


@router.get("/{run_id}/products", response_model=ProductPage)
def list_run_products(
    context: Ctx,
    run_id: UUID,
    step: Annotated[Text | None, Query(description="Products of this step.")] = None,
    type_: Annotated[ProductType | None, Query(alias="type")] = None,
    key: Annotated[Text | None, Query(description="Of this key; `*` and `?` stand for any text.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """The published products of all step runs, oldest first."""
    after = decode("run-products", cursor, uuid_key)
    with context.database.read() as unit:
        found = run_products_page(unit, run_id, after, limit + 1, step=step, type_=type_, key=key)
        if not found and not queries.existing_runs(unit, [run_id]):
            raise NotFound(f"there is no run {run_id}")
    return page("run-products", found, limit)
