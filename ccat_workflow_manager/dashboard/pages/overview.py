"""The overview: is it well, what needs a person, what runs, fails and waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from starlette.responses import Response

from ccat_workflow_manager.api.dashboard import Span
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import holds, times, words
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.drawing import figures as charts
from ccat_workflow_manager.dashboard.parts import shared
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.db.queries import figures
from ccat_workflow_manager.db.queries.service import BackendState, backend_states
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import runs
from ccat_workflow_manager.db.views.attention import runs_held_up
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.causes import BUSY
from ccat_workflow_manager.lifecycle.holds import Kind
from ccat_workflow_manager.services.explain import explain_waiting
from ccat_workflow_manager.services.figures import timeseries
from ccat_workflow_manager.services.queues import stored_queues

router = page_router()

_LONGEST = 6
_REASONS = 5
_WAIT_SECONDS = 3.0
_MOST_CAUSES = 100
_CALLS = "calls_per_minute"
By = Literal["cause", "run"]
_SPANS = {"1h": "1 h", "24h": "24 h", "7d": "7 d"}


def _view(unit: UnitOfWork, projects: Projects) -> dict[str, Any]:
    live = runs.counts_since(unit, None, runs.LIVE, projects)
    return {
        "today": figures.recent_runs(unit, 24, projects),
        "live": live,
        "running": runs.longest_running(unit, _LONGEST, projects),
        "failed": runs.last_failed(unit, _LONGEST, projects),
        "states": backend_states(unit, projects),
    }


def _calls(board: Board, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The calls of schedulers in the last minute and their budgets, by backend."""
    queues = {name: stored_queues(board.context.doorbell, name) for name in names}
    return {name: found[0]["details"] for name, found in queues.items() if found and _CALLS in found[0]["details"]}


def _charts(board: Board, span: str) -> dict[str, Any]:
    told = board.read(("figures", span), lambda unit: timeseries(unit, span, times.now(), board.projects))
    reasons = list(told["reasons"].items())
    return {
        "told": told,
        "span": span,
        "spans": _SPANS,
        "throughput": charts.throughput(told),
        "failed_by": charts.failed_by(told),
        "reasons": reasons[:_REASONS],
        "more_reasons": sum(number for _, number in reasons[_REASONS:]),
    }


def _waits(unit: UnitOfWork, projects: Projects) -> list[dict[str, Any]]:
    """What waits, by cause, the longest wait first."""
    found = [each for each in explain_waiting(unit, projects, _MOST_CAUSES)["items"] if each["cause"] not in BUSY]
    return sorted(found, key=lambda each: each["since"] or "")


def _held_up(board: Board, states: Mapping[str, BackendState]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = board.read("held up", lambda unit: runs_held_up(unit, states, board.projects))
    return found


def _values(board: Board, span: str, by: By) -> dict[str, Any]:
    found = board.read("overview", lambda unit: _view(unit, board.projects))
    causes = [words.cause(each, may_act=board.may["operate"]) for each in board.causes()]
    held = holds.values(board)
    return {
        **found,
        **held,
        "is_held": any(each.kind is Kind.SERVICE for each in held["holds"]),
        "causes": causes,
        "by": by,
        "held_up": _held_up(board, found["states"]) if by == "run" else [],
        "most": runs.MOST_COUNTED,
        "calls": board.answers.get(
            ("calls", tuple(found["states"])), lambda: _calls(board, found["states"]), _WAIT_SECONDS
        ),
        "waits": board.read("waits", lambda unit: _waits(unit, board.projects), _WAIT_SECONDS),
        **_charts(board, span),
    }


@router.get("/")
def overview(board: B, span: Span = "1h", by: By = "cause") -> Response:
    return board.page("overview", "overview", **_values(board, span, by))


@router.get("/ui/overview")
@shared
def overview_part(board: B, span: Span = "1h", by: By = "cause") -> Rendered:
    return board.part("overview", **_values(board, span, by))


@router.get("/ui/rail")
@shared
def rail(board: B, active: str = "") -> Rendered:
    """The part that all pages share."""
    return board.part("rail", rail=board.rail(), active=active)
