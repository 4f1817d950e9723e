"""Parts that all pages share: the rail."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from ccat_workflow_manager.dashboard.board import B

router = APIRouter()


@router.get("/ui/rail")
def rail(board: B, active: str = "") -> Response:
    return board.fragment("rail", rail=board.rail(), active=active)
