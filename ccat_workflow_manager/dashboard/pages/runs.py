"""The list of runs: conditions as tokens in the address, pages in both directions, the history above."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from starlette.responses import RedirectResponse, Response

from ccat_workflow_manager.api.route import page_router, reads_query
from ccat_workflow_manager.dashboard import filters, times
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.drawing.charts import Series, histogram
from ccat_workflow_manager.dashboard.parts import shared
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import runs
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.identity import within
from ccat_workflow_manager.lifecycle.states import RunStatus

router = page_router()

PAGE = 50
_LAYERS = (("done", "COMPLETED"), ("stop", "CANCELLED"), ("fail", "FAILED"), ("run", "RUNNING"), ("wait", "PENDING"))
_HISTORY_SECONDS = 10.0
_COUNTED = {"created", "project"}
"""Conditions that the numbers beside the statuses know."""


def _edge(text: str | None, name: str) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise Invalid(faults=[Fault(name, "is not the id of a run")]) from None


def _history(board: Board) -> dict[str, Any]:
    last = times.now()
    first = last - timedelta(hours=24)
    found, is_cut = board.read(
        "history", lambda unit: runs.history(unit, first, last, board.projects), _HISTORY_SECONDS
    )
    layers = [Series(group, found[status]) for group, status in _LAYERS]
    marks = [f"{first + (last - first) * part / 8:%H:%M}" for part in range(8)] + ["now"]
    marks[0] = f"{first:%a} {marks[0]}"
    label = "Runs by the time they were asked for, last 24 hours" + (", the newest 20,000 only" if is_cut else "")
    return {"history": histogram(label, layers, marks), "has_history": any(map(any, found.values()))}


def _facets(board: Board, conditions: filters.Conditions) -> list[dict[str, Any]]:
    """Statuses with the address of each, and with their counts in the span and project of the list.

    What fulfils other conditions is not counted: that would take longer the more runs there are.
    """
    span, project = conditions.one("created"), conditions.one("project")
    chosen, rest = conditions.one("status"), conditions.without("status")
    found: dict[str, int] = {}
    if {name for name, _ in rest.pairs} <= _COUNTED:
        since = filters.moment(span) if span else None
        projects = within(board.projects, project or None)
        found = board.read(("facets", span, project), lambda unit: runs.counts_since(unit, since, projects=projects), 2)
    total = sum(found.values()) if found else None
    shown = [{"status": "", "count": total, "href": f"/runs{rest.query()}", "current": not chosen}]
    for status in RunStatus:
        href = f"/runs{rest.with_('status', status).query()}"
        shown.append({"status": str(status), "count": found.get(status), "href": href, "current": chosen == status})
    return shown


def _list(board: Board, conditions: filters.Conditions, cursor: str | None, newer: str | None) -> Any:
    wanted = conditions.filter(board.projects)
    older_than, newer_than = _edge(cursor, "cursor"), _edge(newer, "after")

    def view(unit: UnitOfWork) -> runs.RunsPage:
        return runs.runs_page(unit, wanted, PAGE, older_than=older_than, newer_than=newer_than)

    return board.read(("runs", conditions, cursor, newer), view)


def _values(board: Board, cursor: str | None, after: str | None) -> dict[str, Any]:
    conditions = filters.of_query(board.request.query_params)
    found = _list(board, conditions, cursor, after)
    items = found.items
    return {
        "conditions": conditions,
        "runs": items,
        "newer": f"/runs{conditions.query(after=items[0]['id'])}" if items and found.newer else "",
        "older": f"/runs{conditions.query(cursor=items[-1]['id'])}" if items and found.older else "",
        "here": str(board.request.url.query),
    }


Edge = Annotated[str | None, Query()]


@router.get("/runs")
@reads_query
def list_runs(board: B, add: str | None = None, cursor: Edge = None, after: Edge = None) -> Response:
    conditions = filters.of_query(board.request.query_params).without("add")
    if add is not None:
        for name, value in filters.of_text(add):
            conditions = conditions.with_(name, value)
        return RedirectResponse(f"/runs{conditions.query()}", 303)
    try:
        values = {**_values(board, cursor, after), "faults": [], "facets": _facets(board, conditions)}
    except Invalid as error:
        values = {"conditions": conditions, "runs": [], "newer": "", "older": "", "here": "", "faults": error.faults}
        values["facets"] = _facets(board, filters.Conditions())
    tokens = filters.without_each(conditions)
    status = 422 if values["faults"] else 200
    return board.page("runs", "runs", status, tokens=tokens, **_history(board), **values)


@router.get("/ui/runs")
@reads_query
@shared
def list_runs_part(board: B, cursor: Edge = None, after: Edge = None) -> Rendered:
    return board.part("runs", **_values(board, cursor, after))
