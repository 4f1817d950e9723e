"""Projects: how much of its limits each uses, what belongs to it, and what is changed or paused until a time."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from starlette.responses import RedirectResponse, Response

from ccat_workflow_manager.api.holds import ProjectPath
from ccat_workflow_manager.api.projects import ProjectRequest
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import forms, holds, words
from ccat_workflow_manager.dashboard.acting import Form, Sent, faults_of, sheet
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.parts import shared
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.db.queries.overrides import overrides_in
from ccat_workflow_manager.db.queries.projects import project_detail, projects_page
from ccat_workflow_manager.db.queries.run_filter import RunFilter
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import pipelines, runs
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Fault, Invalid, NotFound, RequestError
from ccat_workflow_manager.lifecycle.holds import Hold, Kind
from ccat_workflow_manager.lifecycle.overrides import Changed

router = page_router()

_PAGE = 100
_RUNS = 12
_PIPELINES = 100
_LIMITS = ("weight", "max_live", "max_cpus", "max_queued")
_TERM = {"why": "", "ends": "", "until": ""}


@router.get("/projects")
def list_projects(board: B, cursor: str = "") -> Response:
    def look(unit: UnitOfWork) -> list[dict[str, Any]]:
        return [json.loads(row.json) for row in projects_page(unit, cursor or None, _PAGE + 1, board.projects)]

    found = board.read(("projects", cursor), look)
    older = f"/projects?cursor={found[_PAGE - 1]['name']}" if len(found) > _PAGE else ""
    paused = holds.values(board, lambda hold: hold.kind in (Kind.PROJECT, Kind.SERVICE))
    held = {each.name for each in paused["holds"] if each.kind is Kind.PROJECT}
    return board.page("projects", "projects", items=found[:_PAGE], older=older, held=held, **paused)


def _project(unit: UnitOfWork, name: str) -> dict[str, Any]:
    text = project_detail(unit, name)
    if text is None:
        raise NotFound(f"there is no project {name}")
    found: dict[str, Any] = json.loads(text)
    return found


def _gathered(unit: UnitOfWork, name: str) -> dict[str, Any]:
    project, own = _project(unit, name), frozenset([name])
    newest = runs.runs_page(unit, RunFilter(project=name), _RUNS, older_than=None, newer_than=None)
    return {
        "project": project,
        "live": runs.counts_since(unit, None, runs.LIVE, own),
        "runs": newest.items,
        "has_older": newest.older,
        "pipelines": pipelines.pipelines(unit, "", _PIPELINES, own),
        "overrides": overrides_in(unit, name),
    }


def _values(board: Board, name: str) -> dict[str, Any]:
    found = board.read(("project", name), lambda unit: _gathered(unit, name))
    names = {each["name"] for each in found["pipelines"]}

    def concerns(hold: Hold) -> bool:
        mine = hold.kind is Kind.PROJECT and hold.name == name
        return mine or hold.kind is Kind.SERVICE or (hold.kind is Kind.PIPELINE and hold.name in names)

    paused = holds.values(board, concerns)
    held = {each.name for each in paused["holds"] if each.kind is Kind.PIPELINE}
    is_held = any(each.kind is Kind.PROJECT for each in paused["holds"])
    return {**found, **paused, "held": held, "is_held": is_held, "most": runs.MOST_COUNTED}


@router.get("/projects/{project}")
def show_project(board: B, project: ProjectPath) -> Response:
    return board.page("project", "projects", **_values(board, project))


@router.get("/ui/projects/{project}")
@shared
def show_project_part(board: B, project: ProjectPath) -> Rendered:
    return board.part("project", **_values(board, project))


# --- limits and overrides -------------------------------------------------------------------------------------------


def _form(board: Board, name: str, http_status: int = 200, **more: Any) -> Response:
    with board.context.database.read() as unit:
        present = _project(unit, name)
    sent = {each: "" if present[each] is None else f"{present[each]:g}" for each in _LIMITS} | _TERM
    values = {"name": name, "present": present, "sent": sent, "faults": [], **more}
    return sheet(board, "preview_limits", http_status, **values)


@router.get("/projects/{project}/limits")
def preview_limits(board: B, project: ProjectPath) -> Response:
    """The form for the share and the limits of a project."""
    return _form(board, project)


def _number(text: str) -> Any:
    """The number that was typed, None for nothing; a text that is none is left for the fault."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text or None


def _wanted(form: Form, present: dict[str, Any]) -> ProjectRequest:
    """What differs from the present. Raises Invalid."""
    body: dict[str, Any] = {each: _number(form.one(each).strip()) for each in _LIMITS}
    body["weight"] = 1 if body["weight"] is None else body["weight"]
    changed = {name: value for name, value in body.items() if value != present[name]}
    if not changed:
        raise Invalid(faults=[Fault("", "nothing is changed")])
    end = forms.end_of(form.one("ends"), form.one("until"))
    more = {"why": form.one("why").strip() or None, "until": end}
    return validated(ProjectRequest, changed | {name: value for name, value in more.items() if value is not None})


@router.post("/projects/{project}/limits")
def set_limits(board: B, project: ProjectPath, form: Sent) -> Response:
    """Change what differs from the present; the rest, and when it ends, stays."""
    with board.context.database.read() as unit:
        present = _project(unit, project)
    try:
        asked = _wanted(form, present)
        values = asked.limits(given_only=True)
        board.context.projects.set(project, values, asked.term(board.actor))
    except RequestError as error:
        sent = {each: form.one(each) for each in (*_LIMITS, *_TERM)}
        return _form(board, project, error.http_status, sent=sent, faults=faults_of(error))
    board.changed(["holds", "summary"])
    href = f"/projects/{project}"
    return sheet(board, "report", title=words.LIMITS_SET, lines=[words.limits(values)], href=href, failed="")


@router.post("/overrides/{override_id}/end")
def end_override(board: B, override_id: int) -> Response:
    """End an override before its time, and return to the page of what it changed."""
    ended = board.context.overrides.end(override_id)
    board.changed(["holds", "pipelines", "summary", f"run:{ended.name}"])
    pages = {
        Changed.PIPELINE: f"/pipelines/{ended.name}",
        Changed.RUN: f"/runs/{ended.name}",
        Changed.STEP_RUN: f"/step-runs/{ended.name}",
    }
    return RedirectResponse(pages.get(ended.kind, f"/projects/{ended.project}"), 303)
