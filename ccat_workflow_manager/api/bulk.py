"""Many runs at once: created all or none, cancelled or retried by ids or by a filter."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from ccat_workflow_manager.api import models, run_filters
from ccat_workflow_manager.api import openapi as documented
from ccat_workflow_manager.api.body import Body, Fields
from ccat_workflow_manager.api.dependencies import Actor, Ctx
from ccat_workflow_manager.api.paging import json_response
from ccat_workflow_manager.api.run_requests import IdempotencyKey, idempotency_key, run_requests
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.views import runs as views
from ccat_workflow_manager.errors import Invalid
from ccat_workflow_manager.json_values import kind
from ccat_workflow_manager.lifecycle.states import RunStatus
from ccat_workflow_manager.services.requests import BULK_LIMIT

router = APIRouter(prefix="/runs", tags=["runs"])

_AT_ONCE = 1000


@router.post(
    "/bulk",
    status_code=202,
    response_model=models.Ids,
    responses={200: documented.same_runs},
    openapi_extra=documented.body("BulkRequest", documented.BULK_EXAMPLES),
)
def create_runs(context: Ctx, actor: Actor, body: Body, key: IdempotencyKey = None) -> Response:
    """Create up to 5000 runs, all or none; the answer has their ids in order.

    With an `Idempotency-Key`, the same key and body give the same ids (200); the same key with another body, 409.
    """
    ids, new = context.requests.create_many_once(
        run_requests(body.json_object()), actor=actor, idempotency_key=idempotency_key(key)
    )
    return _ids(ids, 202 if new else 200)


@router.post(
    "/cancel",
    status_code=202,
    response_model=models.Ids,
    openapi_extra=documented.body("RunChoice", documented.CHOICE_EXAMPLES),
)
def cancel_runs(context: Ctx, actor: Actor, body: Body) -> Response:
    """Cancel runs by `ids`, or all unfinished ones that a `filter` matches."""

    def cancel(ids: list[UUID]) -> list[UUID]:
        context.requests.cancel(ids, actor=actor, place="ids")
        return ids

    return _for_chosen(context, body.json_object(), (RunStatus.PENDING, RunStatus.RUNNING), cancel)


@router.post(
    "/retry",
    status_code=202,
    response_model=models.Ids,
    openapi_extra=documented.body("RunChoice", documented.CHOICE_EXAMPLES),
)
def retry_runs(context: Ctx, actor: Actor, body: Body) -> Response:
    """Retry runs by `ids`, or all failed and cancelled ones that a `filter` matches.

    The answer has the ids of those in which there was anything to retry.
    """

    def retry(ids: list[UUID]) -> list[UUID]:
        done = context.requests.retry(ids, actor=actor, place="ids")
        return [each for each in ids if each in done]

    return _for_chosen(context, body.json_object(), (RunStatus.FAILED, RunStatus.CANCELLED), retry)


def _for_chosen(
    context: Context, body: dict[str, Any], usual: tuple[RunStatus, ...], act: Callable[[list[UUID]], list[UUID]]
) -> Response:
    """Do something to the runs that a body names. With a filter it is done to portions, one transaction each."""
    fields = Fields(body, ("ids", "filter"))
    if ("ids" in body) == ("filter" in body):
        fields.fault("ids", "give either `ids` or a `filter`")
    fields.check()
    if "ids" in body:
        return _ids(act(_listed_ids(body["ids"], fields)))
    wanted = run_filters.from_body(body["filter"])
    if not wanted.status:
        wanted = replace(wanted, status=usual)
    done: list[UUID] = []
    ids: list[UUID] = []
    while True:
        with context.database.read() as unit:
            ids = views.run_ids(unit, wanted, ids[-1] if ids else None, _AT_ONCE)
        if ids:
            done += act(ids)
        if len(ids) < _AT_ONCE:
            return _ids(done)


def _listed_ids(value: Any, fields: Fields) -> list[UUID]:
    if not isinstance(value, list) or not value:
        fields.fault("ids", f"must be a list of ids, not {'empty' if value == [] else kind(value)}")
    elif len(value) > BULK_LIMIT:
        fields.fault("ids", f"holds {len(value)} ids; at most {BULK_LIMIT} at a time")
    else:
        found: list[UUID] = []
        for index, each in enumerate(value):
            try:
                found.append(UUID(each))
            except (ValueError, TypeError, AttributeError):
                fields.fault(f"ids[{index}]", "is no id of a run")
        if not fields.faults:
            return found
    raise Invalid(faults=fields.faults[:100])


def _ids(ids: Sequence[UUID], status: int = 202) -> Response:
    return json_response(json.dumps({"ids": [str(each) for each in dict.fromkeys(ids)]}), status)
