"""Parts that all pages share: the rail."""

from __future__ import annotations

from starlette.responses import Response

from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard.board import B

router = page_router()


@router.get("/ui/rail")
def rail(board: B, active: str = "") -> Response:
    return board.fragment("rail", rail=board.rail(), active=active)
