"""Pause or drain a pipeline, a project, a backend or the whole service, with a reason and an end; and resume it."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ccat_workflow_manager.api.holds import HoldRequest, ProjectPath
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import forms, holds, words
from ccat_workflow_manager.dashboard.acting import Form, Sent, faults_of, sheet
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Invalid
from ccat_workflow_manager.lifecycle.holds import Hold, Kind, Mode
from ccat_workflow_manager.lifecycle.waiting import utc_text

router = page_router()

_SENT = {"why": "", "mode": str(Mode.PAUSE), "ends": "4h", "until": ""}
_SEEN_ON = {Kind.BACKEND: "/backends", Kind.SERVICE: "/"}


def _back(kind: Kind, name: str) -> str:
    """The page that shows it."""
    return _SEEN_ON.get(kind) or holds.address(kind, name)


def _preview(
    board: Board, kind: Kind, name: str, http_status: int = 200, *, change: bool = False, **more: Any
) -> Response:
    """Who has paused it, why, and until when; or the form to pause it, or to change why and until when."""
    with board.context.database.read() as unit:
        board.context.holds.require(unit, kind, name)
    found = holds.values(board, lambda hold: (hold.kind, hold.name) == (kind, name))
    present = next(iter(found["holds"]), None)
    return sheet(
        board, "preview_hold", http_status, kind=kind, name=name, back=_back(kind, name),
        address=holds.address(kind, name), present=present, shows_form=change or present is None,
        **{**found, "faults": [], "sent": _SENT if present is None else _as_it_is(present), **more},
    )  # fmt: skip


def _as_it_is(hold: Hold) -> dict[str, str]:
    """The fields of a form that would change nothing."""
    until = "" if hold.until is None else utc_text(hold.until)
    return {"why": hold.why, "mode": str(hold.mode), "ends": "", "until": until}


def _request(form: Form) -> HoldRequest:
    """What the form asks for. A time that is typed goes before the chosen end."""
    body: dict[str, Any] = {"why": form.one("why").strip(), "mode": form.one("mode", Mode.PAUSE)}
    if (end := forms.end_of(form.one("ends"), form.one("until"))) is not None:
        body["until"] = end
    return validated(HoldRequest, body)


def _pause(board: Board, kind: Kind, name: str, form: Form) -> Response:
    try:
        asked = _request(form)
        hold = board.context.holds.hold(kind, name, asked.mode, asked.why, asked.until, actor=board.actor)
    except Invalid as error:
        sent = {each: form.one(each) for each in _SENT}
        return _preview(board, kind, name, error.http_status, change=True, faults=faults_of(error), sent=sent)
    return _report(board, kind, name, words.on_hold(hold), words.HELD[hold.mode])


def _resume(board: Board, kind: Kind, name: str) -> Response:
    hold = board.context.holds.lift(kind, name)
    return _report(board, kind, name, words.goes_on(hold), words.RESUMED)


def _report(board: Board, kind: Kind, name: str, title: str, line: str) -> Response:
    board.changed(["holds", "summary"])
    return sheet(board, "report", title=title, lines=[line], href=_back(kind, name), failed="")


@router.get("/pipelines/{name}/hold")
def preview_pipeline(board: B, name: str, change: bool = False) -> Response:
    return _preview(board, Kind.PIPELINE, name, change=change)


@router.post("/pipelines/{name}/pause")
def pause_pipeline(board: B, name: str, form: Sent) -> Response:
    return _pause(board, Kind.PIPELINE, name, form)


@router.post("/pipelines/{name}/resume")
def resume_pipeline(board: B, name: str) -> Response:
    return _resume(board, Kind.PIPELINE, name)


@router.get("/projects/{project}/hold")
def preview_project(board: B, project: ProjectPath, change: bool = False) -> Response:
    return _preview(board, Kind.PROJECT, project, change=change)


@router.post("/projects/{project}/pause")
def pause_project(board: B, project: ProjectPath, form: Sent) -> Response:
    return _pause(board, Kind.PROJECT, project, form)


@router.post("/projects/{project}/resume")
def resume_project(board: B, project: ProjectPath) -> Response:
    return _resume(board, Kind.PROJECT, project)


@router.get("/backends/{name}/hold")
def preview_backend(board: B, name: str, change: bool = False) -> Response:
    return _preview(board, Kind.BACKEND, name, change=change)


@router.post("/backends/{name}/pause")
def pause_backend(board: B, name: str, form: Sent) -> Response:
    return _pause(board, Kind.BACKEND, name, form)


@router.post("/backends/{name}/resume")
def resume_backend(board: B, name: str) -> Response:
    return _resume(board, Kind.BACKEND, name)


@router.get("/service/hold")
def preview_service(board: B, change: bool = False) -> Response:
    return _preview(board, Kind.SERVICE, "", change=change)


@router.post("/service/pause")
def pause_service(board: B, form: Sent) -> Response:
    return _pause(board, Kind.SERVICE, "", form)


@router.post("/service/resume")
def resume_service(board: B) -> Response:
    return _resume(board, Kind.SERVICE, "")
