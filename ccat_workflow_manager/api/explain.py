"""Why step runs and runs do not go on, ran again or did not complete. Computed from stored rows only."""

from __future__ import annotations

import json
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Ctx, Who
from ccat_workflow_manager.api.openapi import Shape, Time
from ccat_workflow_manager.api.paging import ProjectName, json_response, listed
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.db.queries.runs import run_status_of
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.lifecycle.causes import Cause, Move
from ccat_workflow_manager.lifecycle.states import Event, RunStatus, Status
from ccat_workflow_manager.services.explain import explain_run, explain_step_run, explain_waiting

router = api_router(tags=["explain"])

GroupLimit = Annotated[int, Query(ge=1, le=1000, description="Largest number of groups.")]


class Root(Shape):
    """The cause at the end of the chain."""

    cause: Cause
    subject: str | None = Field(description="What it is about: a backend, a breaker, a run.")
    text: str
    words: str | None = Field(description="What is recorded of it: the problem of a backend, the failures, ...")
    reason: str | None = Field(description="Of a failure: one of the fixed list.")
    scheduler: str | None = Field(description="The words of the scheduler about the job.")
    move: Move = Field(description="Who can do something about it; `system`: it goes on by itself.")
    since: Time | None
    until: Time | None = Field(description="When it ends by itself, if that is known.")
    remedy: str = Field(description="What frees the step run.")
    step_run_id: UUID
    step: str
    key: str
    job_id: str | None
    attempt: int
    max_attempts: int


class ChainLink(Shape):
    step_run_id: UUID
    step: str
    key: str
    status: Status
    cause: Cause
    text: str


class Again(Shape):
    """A retry, a release by a worker, or a failure: why a step run did not end with its first attempt."""

    attempt: int
    event: Event
    actor: str
    reason: str | None
    text: str | None
    at: Time


class Explanation(Shape):
    step_run_id: UUID
    run_id: UUID
    step: str
    key: str
    status: Status
    summary: str
    chain: list[ChainLink] = Field(description="From this step run to the root.")
    root: Root
    same_cause: int = Field(description="Step runs of all runs that wait directly for the same, up to 10,000.")
    behind: int = Field(description="Other step runs of this run with this root.")
    again: list[Again] = Field(description="The last first.")


class CauseGroup(Shape):
    cause: Cause
    subject: str | None
    reason: str | None
    text: str
    move: Move
    remedy: str
    count: int
    example: UUID | None = Field(description="A step run with this cause.")


class RunCauseGroup(CauseGroup):
    tolerated: bool = Field(description="The run can do without these: what failed is a loss that it tolerates.")


class RunExplanation(Shape):
    run_id: UUID
    status: RunStatus
    summary: str
    root: Root | None = Field(description="The most serious cause; null if nothing waits or is missing.")
    causes: list[RunCauseGroup]


class WaitingGroup(CauseGroup):
    since: Time | None = Field(description="When the oldest of these step runs was created.")
    scheduler: str | None


class Waiting(Shape):
    items: list[WaitingGroup]
    total: int = Field(description="Step runs of all groups, also of those that `limit` leaves out.")


@router.get("/step-runs/{step_run_id}/explain", response_model=Explanation)
def explain_one(context: Ctx, who: Who, step_run_id: UUID) -> Response:
    """Why a step run waits, was skipped, failed or ran again: the chain to the root, and what frees it."""
    with context.database.read() as unit:
        unit.snapshot()
        found = explain_step_run(unit, step_run_id, who.projects)
    if found is None:
        raise NotFound(f"there is no step run {step_run_id}")
    return json_response(json.dumps(found))


@router.get("/runs/{run_id}/explain", response_model=RunExplanation)
def explain_of_run(context: Ctx, run_id: UUID) -> Response:
    """Why a run does not go on or did not complete: its most serious cause, and all causes with their numbers."""
    with context.database.read() as unit:
        unit.snapshot()
        status = run_status_of(unit, run_id)
        if status is None:
            raise NotFound(f"there is no run {run_id}")
        found = explain_run(unit, {"id": run_id, "status": status})
    return json_response(json.dumps(found))


@router.get("/explain", response_model=Waiting, responses={304: openapi.not_modified})
def explain_all(
    context: Ctx,
    who: Who,
    group: Annotated[Literal["cause"], Query(description="How step runs are grouped.")] = "cause",
    project: ProjectName = None,
    limit: GroupLimit = 100,
) -> Response:
    """All unfinished step runs by the cause for which they do not go on, the largest groups first.

    `upstream` stands for those that wait for steps before them.
    """
    with context.database.read() as unit:
        unit.snapshot()
        found = explain_waiting(unit, who.within(project), limit)
    return listed(json.dumps(found))
