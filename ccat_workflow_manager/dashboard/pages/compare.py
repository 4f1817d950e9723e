"""Two runs side by side: what was asked differently, what each step took, what ended or came out differently."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from starlette.responses import Response

from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard.board import B
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import compare as view
from ccat_workflow_manager.db.views import run as run_view
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.identity import Projects, sees

router = page_router()

_FACTS = (("Pipeline", "pipeline"), ("Version", "pipeline_version"), ("Backend", "backend"), ("Priority", "priority"))


def _head(unit: UnitOfWork, run_id: UUID, projects: Projects) -> dict[str, Any]:
    found = run_view.head(unit, run_id)
    if found is None or not sees(projects, found["project"]):
        raise NotFound(f"there is no run {run_id}")
    return found


def _changed(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The names whose values differ; None: the run has no such name."""
    names = dict.fromkeys([*first, *second])
    return [(name, first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)]


def _compared(unit: UnitOfWork, run_id: UUID, wanted: UUID | None, projects: Projects) -> dict[str, Any]:
    run = _head(unit, run_id, projects)
    others = view.recent(unit, run["pipeline"], run_id, projects)
    other_id = wanted or view.before(unit, run["pipeline"], run_id, projects)
    other_id = other_id or (UUID(others[0]["id"]) if others else None)
    found: dict[str, Any] = {"run": run, "others": others, "other": None}
    if other_id is None:
        return found
    other = _head(unit, other_id, projects)
    counts, products = view.products(unit, other_id, run_id)
    outcomes = view.outcomes(unit, other_id, run_id)
    return found | {
        "other": other,
        "facts": [(text, other[name], run[name]) for text, name in _FACTS if other[name] != run[name]],
        "parameters": _changed(other["parameters"], run["parameters"]),
        "labels": _changed(other["labels"], run["labels"]),
        "steps": view.steps(unit, other_id, run_id),
        "outcomes": outcomes[: view.MOST_SHOWN],
        "more_outcomes": len(outcomes) > view.MOST_SHOWN,
        "counts": counts,
        "products": products,
    }


@router.get("/runs/{run_id}/compare")
def compare(board: B, run_id: UUID, other: Annotated[UUID | None, Query(alias="with")] = None) -> Response:
    """Compare a run with another one, by default with the run of its pipeline before."""
    found = board.read(("compare", run_id, other), lambda unit: _compared(unit, run_id, other, board.projects), 2)
    return board.page("compare", "runs", **found)
