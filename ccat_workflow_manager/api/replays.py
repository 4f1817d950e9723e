"""Replays of finished runs, with a preview."""

from __future__ import annotations

import json
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Body, Ctx, IdempotencyKey, Who
from ccat_workflow_manager.api.openapi import Shape
from ccat_workflow_manager.api.paging import json_response
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.api.run_choice import RunFilterBody
from ccat_workflow_manager.db.queries.runs import run_ids
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.services.replay_request import ReplayOptions
from ccat_workflow_manager.services.replays import MOST

router = api_router(prefix="/runs", tags=["runs"])


class ReplayRequest(ReplayOptions):
    """Which runs are replayed, by ids or by a filter, and how."""

    ids: list[UUID] | None = Field(default=None, min_length=1, max_length=MOST)
    filter: RunFilterBody | None = None


class StepOfReplay(Shape):
    step: str
    again: int
    reused: int
    why: list[str] = Field(description="Why step runs of it are started again.")
    again_keys: list[str]
    reused_keys: list[str]


class CostOfReplay(Shape):
    """By the medians of recent runs of the pipeline."""

    wall_time_seconds: float
    cpu_hours: float
    without_history: int = Field(description="Step runs of steps that never completed before, which are not counted.")


class Superseded(Shape):
    run_id: UUID
    step_runs: int
    products: int


class ReplayItem(Shape):
    run_id: UUID
    outcome: Literal["would_be_replayed", "replayed", "refused"]
    new_run_id: UUID | None
    reason: str | None = Field(description="Why it was refused.")
    pipeline: str | None
    pipeline_version: int | None
    again: int = Field(description="Step runs that are started again.")
    reused: int = Field(description="Step runs whose products are taken over, because nothing has changed for them.")
    steps: list[StepOfReplay]
    cost: CostOfReplay
    supersedes: Superseded | None = Field(description="What was made before, and stays.")


class ReplayAnswer(Shape):
    dry_run: bool
    items: list[ReplayItem]


_EXAMPLES: dict[str, Any] = {
    "from a step": {"value": {"ids": ["0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c"], "from": "grid", "version": "latest"}},
    "what failed": {"value": {"filter": {"label": "night:2026-01-31", "status": "FAILED"}, "dry_run": True}},
}


@router.post(
    "/replay",
    status_code=202,
    response_model=ReplayAnswer,
    responses={200: {"model": ReplayAnswer, "description": "What would happen (`dry_run`)"}},
    openapi_extra=openapi.body(ReplayRequest, _EXAMPLES),
)
def replay_runs(context: Ctx, who: Who, body: Body, key: IdempotencyKey = None) -> Response:
    """Replay up to 5000 finished runs, each as a new run. Each item says what became of it.

    With an `Idempotency-Key`, a repeated call finds the runs that the first one has created.
    """
    request = body.parse(ReplayRequest)
    if (request.ids is None) == (request.filter is None):
        raise Invalid(faults=[Fault("ids", "give either `ids` or a `filter`")])
    chosen = request.ids or []
    if request.filter is not None:
        wanted = request.filter.filter(who)
        if wanted.empty:
            raise Invalid(faults=[Fault("filter", "is empty, which would match every run; give a condition")])
        with context.database.read() as unit:
            chosen = run_ids(unit, wanted, None, MOST + 1)
        if len(chosen) > MOST:
            raise Invalid(faults=[Fault("filter", f"matches more than {MOST} runs; replay them in several calls")])
    options = ReplayOptions.model_validate(request.model_dump(by_alias=True, exclude={"ids", "filter"}))
    items = context.replays.replay(chosen, options, actor=who.name, projects=who.projects, key=key)
    return json_response(json.dumps({"dry_run": options.dry_run, "items": items}), 200 if options.dry_run else 202)
