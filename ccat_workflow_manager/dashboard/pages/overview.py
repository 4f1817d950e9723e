"""The overview: is it well, what needs a person, what runs, fails and waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from ccat_workflow_manager.dashboard import times, words
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.db.queries.service import backend_states
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import attention, runs

router = APIRouter()

_LONGEST = 6


def _view(unit: UnitOfWork) -> dict[str, Any]:
    today = runs.counts_since(unit, times.now() - timedelta(hours=24))
    live = runs.counts_since(unit, None, runs.LIVE)
    return {
        "today": today,
        "live": live,
        "causes": attention.causes(unit),
        "running": runs.longest_running(unit, _LONGEST),
        "failed": runs.last_failed(unit, _LONGEST),
        "states": backend_states(unit),
    }


def _values(board: Board) -> dict[str, Any]:
    found = board.read("overview", _view)
    causes = [words.cause(each) for each in found["causes"]]
    return {**found, "causes": causes, "most": runs.MOST_COUNTED}


@router.get("/")
def overview(board: B) -> Response:
    return board.page("overview", "overview", **_values(board))


@router.get("/ui/overview")
def overview_part(board: B) -> Response:
    return board.fragment("overview", **_values(board))
