"""One step run: its state in words, attempts side by side, its log; and the table of the step runs of a step."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Query
from markupsafe import Markup
from starlette.responses import JSONResponse, RedirectResponse, Response

from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import rendering, times, words
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.drawing import gantt
from ccat_workflow_manager.dashboard.parts import shared
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.queries.overrides import overrides_of_step_run
from ccat_workflow_manager.db.queries.products import products_page
from ccat_workflow_manager.db.queries.step_runs import attempts_page, events_page, step_run_detail
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import run as run_view
from ccat_workflow_manager.db.views import step_run as view
from ccat_workflow_manager.errors import Fault, Invalid, NotFound, ServiceUnavailable
from ccat_workflow_manager.execution.layout import attempt_dirs
from ccat_workflow_manager.lifecycle.states import Status
from ccat_workflow_manager.services import attempt_texts
from ccat_workflow_manager.services.explain import explain_step_run
from ccat_workflow_manager.services.log_search import search
from ccat_workflow_manager.services.logs import LogLocation

router = page_router()

Stream = Literal["stdout", "stderr"]
Part = Literal["log", "why", "command", "manifest", "script", "environment", "events"]
_PAGE = 100
_LINES = 400
_PIECE = 256 * 1024
_MOST_SHOWN = 8
"""So many attempts are side by side; of more the last ones are."""


def _gathered(unit: UnitOfWork, step_run_id: UUID) -> dict[str, Any]:
    text, at = step_run_detail(unit, step_run_id), view.place(unit, step_run_id)
    if text is None or at is None:
        raise NotFound(f"there is no step run {step_run_id}")
    step_run, run_id = json.loads(text), UUID(at["run_id"])
    return {
        "step_run": step_run,
        "place": at,
        "attempts": [json.loads(row.json) for row in attempts_page(unit, step_run_id, 0, 1000)],
        "events": [json.loads(row.json) for row in events_page(unit, step_run_id, 0, 500)],
        "overrides": overrides_of_step_run(unit, step_run_id),
        "siblings": view.siblings(unit, run_id, at["position"], step_run_id),
        "neighbours": view.neighbours(unit, run_id, at["position"], step_run_id),
        "related": view.related(unit, run_id, at["position"], step_run["key"]),
        "products": [json.loads(row.json) for row in products_page(unit, step_run_id, None, 50)],
        "step_spec": _step_spec(unit, UUID(at["spec_id"]), step_run["step"]),
    }


def _step_spec(unit: UnitOfWork, spec_id: UUID, name: str) -> dict[str, Any]:
    content = PipelineStore(unit).by_id(spec_id).content
    return next((dict(step) for step in content["steps"] if step["name"] == name), {})


def _values(board: Board, step_run_id: UUID, attempt: int | None) -> dict[str, Any]:
    found: dict[str, Any] = board.read(("step run", step_run_id), lambda unit: _gathered(unit, step_run_id))
    attempts = found["attempts"]
    newest = attempts[-1]["number"] if attempts else 0
    chosen = attempt or newest
    if attempt and attempt not in {each["number"] for each in attempts}:
        raise NotFound(f"there is no attempt {attempt} of this step run")
    return {
        **found,
        "shown": attempts[-_MOST_SHOWN:],
        "chosen": chosen,
        "newest": newest,
        "bars": _bars(found["step_run"], attempts),
        "says": words.step_run(found["step_run"], attempts),
        "path": f"/step-runs/{step_run_id}",
    }


def _bars(step_run: dict[str, Any], attempts: list[dict[str, Any]]) -> Markup:
    """The attempts of a step run over time."""
    first = times.parse(attempts[0]["claimed_at"]) if attempts else None
    until = times.parse(step_run["finished_at"]) or times.now()
    scale = gantt.Scale(first or until, until, step_run["finished_at"] is None)
    return gantt.row(scale, [step_run], {step_run["id"]: attempts})


@router.get("/step-runs/{step_run_id}")
def step_run(
    board: B,
    step_run_id: UUID,
    attempt: Annotated[int | None, Query(ge=1, le=32_767)] = None,
    stream: Stream | None = None,
    part: Part = "log",
) -> Response:
    values = _values(board, step_run_id, attempt)
    text = _part(board, step_run_id, values, part, stream)
    values["directory"] = _directory(board, values) if values["chosen"] else ""
    return board.page("step_run", "runs", part=part, **text, **values)


@router.get("/ui/step-runs/{step_run_id}")
@shared
def step_run_part(board: B, step_run_id: UUID) -> Rendered:
    return board.part("step_run", **_values(board, step_run_id, None))


def _directory(board: Board, values: dict[str, Any]) -> str:
    """Where the chosen attempt has its files."""
    found, base = values["step_run"], str(board.context.settings.pipeline_base_dir)
    return attempt_dirs(base, found["pipeline"], found["run_id"], found["step"], found["key"], values["chosen"]).root


def _part(board: Board, step_run_id: UUID, values: dict[str, Any], part: str, stream: str | None) -> dict[str, Any]:
    """The chosen part of what the attempt has left, as text; `gone` says why there is none."""
    shown: dict[str, Any] = {
        "text": "", "gone": "", "size": None, "next_offset": None, "environment": {}, "stream": stream or "stdout"
    }  # fmt: skip
    if part == "why":
        found = board.read(("why", step_run_id), lambda unit: explain_step_run(unit, step_run_id, board.projects), 5)
        return shown | {"why": found}
    spec = values["step_spec"]
    given = spec.get("environment") or {}
    environment = {name: value for name, value in given.items() if isinstance(value, str)}
    if part == "environment":
        named = {name: f"from the secret {value['secret']}" for name, value in given.items() if name not in environment}
        return shown | {"environment": attempt_texts.masked(environment) | named}
    if part == "command":
        return shown | {"text": attempt_texts.without_secrets(_command(spec), environment)}
    if part == "events" or not values["chosen"]:
        return shown
    try:
        chosen = next(each for each in values["attempts"] if each["number"] == values["chosen"])
        log = board.context.logs.locate(step_run_id, chosen["number"])
        if part == "log":
            return shown | _log(board, log, stream, ended=chosen["finished_at"] is not None)
        dirs = log.dirs(str(board.context.settings.pipeline_base_dir))
        name = chosen["job_name"]
        found = attempt_texts.manifest(dirs) if part == "manifest" else None
        found = attempt_texts.job_script(dirs, name, environment) if part == "script" else found
        return shown | {"text": found or "", "gone": "" if found else words.FILE_GONE}
    except (ServiceUnavailable, NotFound) as error:
        return shown | {"gone": error.message}


def _log(board: Board, log: LogLocation, stream: str | None, *, ended: bool) -> dict[str, Any]:
    """The end of a stream of a log. Unless one is asked for: stderr if that is all that an attempt has written."""
    name = stream or "stdout"
    piece = board.context.logs.read(log, name, tail=_LINES)
    if stream is None and ended and not piece.text:
        errors = board.context.logs.read(log, "stderr", tail=_LINES)
        name, piece = ("stderr", errors) if errors.text else (name, piece)
    return {"text": piece.text, "size": piece.size, "next_offset": piece.next_offset, "stream": name}


def _command(spec: dict[str, Any]) -> str:
    lines = [words.shown(each) for each in spec.get("command") or ()]
    return "\n".join(lines)


# --- the log --------------------------------------------------------------------------------------------------------

Attempt = Annotated[int | None, Query(ge=1, le=32_767)]
Offset = Annotated[int, Query(ge=0, le=2**62)]


@router.get("/ui/step-runs/{step_run_id}/log")
def log_piece(
    board: B, step_run_id: UUID, attempt: Attempt = None, stream: Stream = "stdout", offset: Offset = 0
) -> Response:
    """A piece of a log from a byte on."""
    log = board.context.logs.locate(step_run_id, attempt)
    piece = board.context.logs.read(log, stream, offset=offset)
    data = piece.text.encode("utf-8", "replace")
    text, following = piece.text, piece.next_offset
    if len(data) > _PIECE:
        cut = data.rfind(b"\n", 0, _PIECE) + 1 or _PIECE
        text, following = data[:cut].decode("utf-8", "ignore"), offset + cut
    found = {"text": text, "offset": offset, "next_offset": following, "size": piece.size}
    return JSONResponse(found, headers=rendering.HEADERS)


@router.get("/ui/step-runs/{step_run_id}/log/search")
def search_log(
    board: B,
    step_run_id: UUID,
    q: Annotated[str, Query(min_length=1, max_length=200)],
    attempt: Attempt = None,
    stream: Stream = "stdout",
    offset: Offset = 0,
) -> Response:
    """Where lines with this text begin, as far as the search came in two seconds."""
    log = board.context.logs.locate(step_run_id, attempt)
    return JSONResponse(asdict(search(board.context.logs, log, stream, q, offset)), headers=rendering.HEADERS)


# --- the step runs of a step ----------------------------------------------------------------------------------------


def _step(board: Board, run_id: UUID, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    def look(unit: UnitOfWork) -> tuple[dict[str, Any], dict[str, Any]]:
        run, step = run_view.head(unit, run_id), view.step(unit, run_id, name)
        if run is None or step is None:
            raise NotFound(f"there is no step {name} in a run {run_id}")
        return run, step

    found: tuple[dict[str, Any], dict[str, Any]] = board.read(("step", run_id, name), look)
    return found


@router.get("/runs/{run_id}/steps/{name}")
def step_runs(board: B, run_id: UUID, name: str, status: str = "", q: str = "", cursor: UUID | None = None) -> Response:
    if status and status not in set(Status):
        raise Invalid(faults=[Fault("status", f"{status!r} is not a status; there are {', '.join(Status)}")])
    run, step = _step(board, run_id, name)

    def look(unit: UnitOfWork) -> list[dict[str, Any]]:
        return view.step_runs_page(
            unit, run_id, step["position"], status=status, q=q[:200], after=cursor, limit=_PAGE + 1
        )

    found = board.read(("step runs", run_id, name, status, q, cursor), look)
    items = found[:_PAGE]
    if step["total"] == 1 and not status and not q and items:
        return RedirectResponse(f"/step-runs/{items[0]['id']}", 303)
    chosen = {"status": status, "q": q}
    newest = f"?{urlencode(chosen)}" if cursor else ""
    older = f"?{urlencode({**chosen, 'cursor': items[-1]['id']})}" if len(found) > _PAGE else ""
    return board.page(
        "step", "runs", run=run, step=step, name=name, items=items, status=status, q=q, older=older, newest=newest
    )


@router.get("/runs/{run_id}/steps/{name}/{key}")
def of_key(board: B, run_id: UUID, name: str, key: str) -> Response:
    found = board.read(("key", run_id, name, key), lambda unit: view.of_key(unit, run_id, name, key))
    if found is None:
        raise NotFound(f"there is no step run {name}/{key} in run {run_id}")
    return RedirectResponse(f"/step-runs/{found}", 303)
