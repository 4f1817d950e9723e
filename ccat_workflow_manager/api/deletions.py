"""Deletes runs, or what a finished run needs no longer."""

from __future__ import annotations

import json
from typing import Annotated
from uuid import UUID

from fastapi import Query
from starlette.responses import Response

from ccat_workflow_manager.api.dependencies import Actor, Ctx
from ccat_workflow_manager.api.openapi import Shape
from ccat_workflow_manager.api.paging import json_response
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.lifecycle.models import What

router = api_router(prefix="/runs", tags=["runs"])


class Deletion(Shape):
    """What is deleted. `bytes` are those of the products."""

    id: UUID
    pipeline: str
    what: What
    dry_run: bool
    step_runs: int
    products: int
    bytes: int


@router.delete("/{run_id}", status_code=202, response_model=Deletion, responses={200: {"model": Deletion}})
def delete_run(
    context: Ctx,
    actor: Actor,
    run_id: UUID,
    what: Annotated[What, Query(description="Everything, or only a part.")] = What.RUN,
    dry_run: Annotated[bool, Query(description="Change nothing (200).")] = False,
) -> Response:
    """Delete a run that is over, with its directories: 409 if another run uses its products.

    It stays visible until a worker of each of its backends has removed the files.
    """
    (size,) = context.deletions.request([run_id], what, actor=actor, dry_run=dry_run)
    shown = {
        "id": str(size.id),
        "pipeline": size.pipeline,
        "what": what,
        "dry_run": dry_run,
        "step_runs": size.step_runs,
        "products": size.products,
        "bytes": size.bytes,
    }
    return json_response(json.dumps(shown), 200 if dry_run else 202)
