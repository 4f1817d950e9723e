"""The overview: is it well, what needs a person, what runs, fails and waits."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import holds, times, words
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.drawing import figures as charts
from ccat_workflow_manager.db.queries import figures
from ccat_workflow_manager.db.queries.service import backend_states
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import attention, runs
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.holds import Kind
from ccat_workflow_manager.services.figures import timeseries

router = page_router()

_LONGEST = 6
_SPANS = {"Last hour": "1h", "Last day": "24h"}


def _view(unit: UnitOfWork, projects: Projects) -> dict[str, Any]:
    live = runs.counts_since(unit, None, runs.LIVE, projects)
    return {
        "today": figures.recent_runs(unit, 24, projects),
        "live": live,
        "causes": attention.causes(unit, projects),
        "running": runs.longest_running(unit, _LONGEST, projects),
        "failed": runs.last_failed(unit, _LONGEST, projects),
        "states": backend_states(unit, projects),
    }


def _chart(board: Board, span: str) -> dict[str, Any]:
    told = board.read(("figures", span), lambda unit: timeseries(unit, span, times.now(), board.projects))
    return {**told["totals"], "throughput": charts.throughput(told), "failure_rate_chart": charts.failure_rate(told)}


def _values(board: Board) -> dict[str, Any]:
    found = board.read("overview", lambda unit: _view(unit, board.projects))
    causes = [words.cause(each) for each in found["causes"]]
    held = holds.values(board)
    return {
        **found,
        **held,
        "is_held": any(each.kind is Kind.SERVICE for each in held["holds"]),
        "causes": causes,
        "most": runs.MOST_COUNTED,
        "figures": {title: _chart(board, span) for title, span in _SPANS.items()},
    }


@router.get("/")
def overview(board: B) -> Response:
    return board.page("overview", "overview", **_values(board))


@router.get("/ui/overview")
def overview_part(board: B) -> Response:
    return board.fragment("overview", **_values(board))
