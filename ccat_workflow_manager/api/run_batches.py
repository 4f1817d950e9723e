"""Many runs in one request: creates them all or none, cancels and retries those that are chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Body, Ctx, IdempotencyKey, Who
from ccat_workflow_manager.api.openapi import Shape
from ccat_workflow_manager.api.paging import (
    json_response,
)
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.api.run_choice import RunChoice
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.queries import runs as queries
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.lifecycle.states import RunStatus
from ccat_workflow_manager.services.requests import require
from ccat_workflow_manager.services.run_request import RunRequest

router = api_router(prefix="/runs", tags=["runs"])

_AT_ONCE = 1000
"""A change by filter has one transaction for this many runs."""


class BulkRequest(Shape):
    runs: list[RunRequest] = Field(min_length=1, max_length=5000)


class Ids(Shape):
    ids: list[UUID]


_SAME_RUNS: dict[str, Any] = {"model": Ids, "description": "The runs that the same request created before"}


@router.post(
    "/bulk",
    status_code=202,
    response_model=Ids,
    responses={200: _SAME_RUNS},
    openapi_extra=openapi.body(BulkRequest, openapi.BULK_EXAMPLES),
)
def create_runs(context: Ctx, who: Who, body: Body, key: IdempotencyKey = None) -> Response:
    """Create up to 5000 runs, all or none. The response has their ids in order.

    With an `Idempotency-Key`, the same key and body give the same ids (200); the same key with another body, 409.
    """
    ids, are_new = context.submitter.submit_bulk(
        body.parse(BulkRequest).runs, actor=who.name, projects=who.projects, idempotency_key=key
    )
    return _ids(ids, 202 if are_new else 200)


@router.post(
    "/cancel",
    status_code=202,
    response_model=Ids,
    openapi_extra=openapi.body(RunChoice, openapi.CHOICE_EXAMPLES),
)
def cancel_runs(context: Ctx, who: Who, body: Body) -> Response:
    """Cancel runs by `ids`, or all unfinished ones that match a `filter`."""

    def cancel(ids: list[UUID]) -> list[UUID]:
        context.requests.cancel(ids, actor=who.name, path="ids")
        return ids

    return _for_chosen(context, who, body.parse(RunChoice), (RunStatus.PENDING, RunStatus.RUNNING), cancel)


@router.post(
    "/retry",
    status_code=202,
    response_model=Ids,
    openapi_extra=openapi.body(RunChoice, openapi.CHOICE_EXAMPLES),
)
def retry_runs(context: Ctx, who: Who, body: Body) -> Response:
    """Retry runs by `ids`, or all failed and cancelled ones that match a `filter`.

    The response has the ids of the runs in which something is retried.
    """

    def retry(ids: list[UUID]) -> list[UUID]:
        done = context.requests.retry(ids, actor=who.name, path="ids")
        return [each for each in ids if each in done]

    return _for_chosen(context, who, body.parse(RunChoice), (RunStatus.FAILED, RunStatus.CANCELLED), retry)


def _for_chosen(
    context: Context,
    who: Identity,
    choice: RunChoice,
    default: tuple[RunStatus, ...],
    act: Callable[[list[UUID]], list[UUID]],
) -> Response:
    """Apply a change to the chosen runs; with a filter, to portions of them in one transaction each."""
    if (choice.ids is None) == (choice.filter is None):
        raise Invalid(faults=[Fault("ids", "give either `ids` or a `filter`")])
    if choice.filter is None:
        _require_visible(context, who, choice.ids or [])
        return _ids(act(choice.ids or []))
    audit.describe(after={"filter": choice.filter.model_dump(mode="json", exclude_none=True)})
    wanted = choice.filter.filter(who)
    if wanted.empty:
        raise Invalid(faults=[Fault("filter", "is empty, which would match every run; give at least one condition")])
    if not wanted.status:
        wanted = replace(wanted, status=default)
    done: list[UUID] = []
    ids: list[UUID] = []
    while True:
        with context.database.read() as unit:
            ids = queries.run_ids(unit, wanted, ids[-1] if ids else None, _AT_ONCE)
        if ids:
            done += act(ids)
        if len(ids) < _AT_ONCE:
            return _ids(done)


def _require_visible(context: Context, who: Identity, ids: Sequence[UUID]) -> None:
    """Raises NotFound for runs of projects that the caller does not see, as for those that do not exist."""
    if who.projects is not None:
        with context.database.read() as unit:
            require("run", ids, queries.existing_runs(unit, ids, who.projects), "ids")


def _ids(ids: Sequence[UUID], status: int = 202) -> Response:
    return json_response(json.dumps({"ids": [str(each) for each in dict.fromkeys(ids)]}), status)
