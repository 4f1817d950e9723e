"""Pipelines: is it reliable, what changed, what does it ask for and use; and the form that starts a run."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

import yaml
from fastapi import Query
from starlette.responses import JSONResponse, RedirectResponse, Response

from ccat_workflow_manager.api.dependencies import Who
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import forms, holds, rendering, times, words
from ccat_workflow_manager.dashboard.acting import Form, Sent
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.drawing import figures
from ccat_workflow_manager.dashboard.drawing.charts import runs_chart
from ccat_workflow_manager.dashboard.drawing.shapes import GROUP_OF
from ccat_workflow_manager.dashboard.parts import shared
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.db.queries.overrides import overrides_of
from ccat_workflow_manager.db.queries.pipelines import pipeline_detail, versions_page
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import pipelines as view
from ccat_workflow_manager.db.views import run as run_view
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Fault, NotFound, RequestError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.identity import Projects, sees
from ccat_workflow_manager.lifecycle.holds import Hold, Kind
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.lifecycle.overrides import Changed
from ccat_workflow_manager.services.figures import pipeline_stats
from ccat_workflow_manager.services.run_request import RunRequest

router = page_router()

_PAGE = 100
_SPAN = "30d"
_VERSIONS = 50
_LONGEST_DIFF = 4000
Version = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


@router.get("/pipelines")
def list_pipelines(board: B, cursor: str = "") -> Response:
    found = board.read(("pipelines", cursor), lambda unit: view.pipelines(unit, cursor, _PAGE + 1, board.projects))
    older = f"/pipelines?cursor={found[_PAGE - 1]['name']}" if len(found) > _PAGE else ""
    return board.page("pipelines", "pipelines", items=found[:_PAGE], older=older)


def _gathered(unit: UnitOfWork, name: str, projects: Projects) -> dict[str, Any]:
    text = pipeline_detail(unit, name)
    if text is None:
        raise NotFound(f"there is no pipeline {name}")
    return {
        "pipeline": json.loads(text),
        "versions": [json.loads(row.json) for row in versions_page(unit, name, None, _VERSIONS)],
        "runs": view.last_runs(unit, name, projects)[::-1],
        "usage": view.step_usage(unit, name, projects),
        "outcomes": view.by_version(unit, name, projects),
        "overrides": overrides_of(unit, Changed.PIPELINE, name),
    }


def _values(board: Board, name: str, version: int | None, against: int | None) -> dict[str, Any]:
    found = board.read(("pipeline", name), lambda unit: _gathered(unit, name, board.projects), 5)
    numbers = [each["version"] for each in found["versions"]]
    chosen = version or found["pipeline"]["version"]
    for number in filter(None, (chosen, against)):
        if number not in numbers:
            raise NotFound(f"there is no version {number} of {name} among its last {_VERSIONS}")
    before = against or next((each for each in numbers if each < chosen), None)
    runs = [(GROUP_OF[each["status"]], (each["seconds"] or 0) / 60, f"/runs/{each['id']}") for each in found["runs"]]
    definition = _version(found, chosen)
    return {
        **found,
        "chosen": chosen,
        "against": before,
        "definition": definition,
        "asks": _asks(definition or {}),
        "diff": _diff(_version(found, before), definition),
        "outcome_counts": Counter(group for group, _, _ in runs),
        "chart": runs_chart(f"The last runs of {name}, in minutes", runs, "now"),
        **_charts(board, name),
        **_holds(board, found),
        "overrides": found["overrides"],
        "facts": words.pipeline_facts(found["runs"], found["usage"]),
    }


def _holds(board: Board, found: dict[str, Any]) -> dict[str, Any]:
    """What keeps step runs of the newest version of a pipeline from being launched."""
    about, default = found["pipeline"], board.context.settings.hpc_backend
    usual = (about["definition"].get("defaults") or {}).get("backend") or default
    backends = {step.get("backend") or usual for step in about["definition"].get("steps") or ()}
    own = {(Kind.PIPELINE, about["name"]), (Kind.PROJECT, about["project"]), (Kind.SERVICE, "")}
    own |= {(Kind.BACKEND, name) for name in backends}

    def concerns(hold: Hold) -> bool:
        return (hold.kind, hold.name) in own

    paused = holds.values(board, concerns)
    return {**paused, "is_held": any(each.kind is Kind.PIPELINE for each in paused["holds"])}


def _charts(board: Board, name: str) -> dict[str, Any]:
    stats = board.read(
        ("figures of", name), lambda unit: pipeline_stats(unit, name, _SPAN, times.now(), board.projects), 5
    )
    return {
        "success": figures.success_rate(stats),
        "durations": figures.durations(stats),
        "stats": stats["runs"],
        "trends": {name: figures.trend(each) for name, each in stats["steps"].items()},
    }


def _asks(definition: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The resources that each step asks for, defaults included."""
    shared = (definition.get("defaults") or {}).get("resources") or {}
    usual = asdict(Resources())
    return {
        step["name"]: {**usual, **shared, **(step.get("resources") or {})} for step in definition.get("steps") or ()
    }


def _version(found: dict[str, Any], number: int | None) -> dict[str, Any] | None:
    return next((each["definition"] for each in found["versions"] if each["version"] == number), None)


def _diff(old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[tuple[str, str, str, str]]:
    """Lines as (kind, number before, number after, text)."""
    if old is None or new is None:
        return []
    before, after = (yaml.safe_dump(each, sort_keys=False, allow_unicode=True).splitlines() for each in (old, new))
    if len(before) + len(after) > _LONGEST_DIFF:
        return []
    rows: list[tuple[str, str, str, str]] = []
    for group in difflib.SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(3):
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                rows += [
                    ("", str(i + 1), str(j + 1), before[i]) for i, j in zip(range(i1, i2), range(j1, j2), strict=True)
                ]
            else:
                rows += [("del", str(i + 1), "", before[i]) for i in range(i1, i2)]
                rows += [("add", "", str(j + 1), after[j]) for j in range(j1, j2)]
    return rows


def _form(board: Board, definition: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return {
        "fields": forms.fields(definition.get("parameters") or {}, given),
        "backends": registry.names(),
        "default_backend": board.context.settings.hpc_backend,
    }


@router.get("/pipelines/{name}")
def pipeline(
    board: B,
    name: str,
    version: Version = None,
    against: Version = None,
    source: Annotated[UUID | None, Query(alias="from")] = None,
    whole: bool = False,
) -> Response:
    values = _values(board, name, version, against)
    given: dict[str, Any] = {}
    labels = ""
    if source is not None:
        run = board.read(("run head", source), lambda unit: run_view.head(unit, source))
        if run is not None and sees(board.projects, run["project"]):
            given, labels = run["parameters"], "\n".join(f"{k}: {v}" for k, v in run["labels"].items())
    sent = {"labels": labels, "priority": "", "backend": ""}
    form = _form(board, values["definition"], given)
    return board.page(
        "pipeline",
        "pipelines",
        whole=whole,
        faults={},
        general=[],
        sent=sent,
        form_error="",
        is_plain=source is None,
        **form,
        **values,
    )


@router.get("/ui/pipelines/{name}/head")
@shared
def head(board: B, name: str) -> Rendered:
    """The title, what may be done, and what is paused."""
    found = board.read(("pipeline", name), lambda unit: _gathered(unit, name, board.projects), 5)
    return board.part("pipeline_head", pipeline=found["pipeline"], overrides=found["overrides"], **_holds(board, found))


# --- start a run ----------------------------------------------------------------------------------------------------


def _request(board: Board, name: str, form: Form) -> tuple[RunRequest | None, list[Fault], dict[str, Any]]:
    """The request that a form means, its faults so far, and its parameters."""
    version = forms.whole(form.one("version", "0"))
    values = board.read(("pipeline", name), lambda unit: _gathered(unit, name, board.projects), 5)
    definition = _version(values, version) or _version(values, values["pipeline"]["version"]) or {}
    parameters, faults = forms.parameters(definition.get("parameters") or {}, form.fields)
    labels, more = forms.labels(form.one("labels"))
    body: dict[str, Any] = {"pipeline": name, "parameters": parameters, "labels": labels}
    if version is None:
        more.append(Fault("version", "must be a whole number"))
    elif version:
        body["version"] = version
    if form.one("backend"):
        body["backend"] = form.one("backend")
    if text := form.one("priority").strip():
        if (priority := forms.whole(text)) is None:
            more.append(Fault("priority", "must be a whole number"))
        body["priority"] = priority
    faults += more
    if faults:
        return None, faults, parameters
    try:
        return validated(RunRequest, body), [], parameters
    except RequestError as error:
        return None, list(error.faults), parameters


def _checked(board: Board, who: Any, request: RunRequest | None, faults: list[Fault]) -> tuple[int, list[Fault], str]:
    """How many step runs it would have, the faults, and what else keeps it from being created."""
    if request is None:
        return 0, faults, ""
    try:
        return board.context.submitter.check(request, actor=board.actor, projects=who.projects), [], ""
    except RequestError as error:
        return 0, list(error.faults), "" if error.faults else error.message


@router.post("/ui/pipelines/{name}/check")
def check(board: B, who: Who, name: str, form: Sent) -> Response:
    """What starting a run with this form would do."""
    request, faults, parameters = _request(board, name, form)
    total, faults, error = _checked(board, who, request, faults)
    answer = {
        "faults": [{"path": fault.path, "message": fault.message} for fault in faults],
        "error": error,
        "says": words.start(total),
        "command": words.submit_command(name, parameters),
    }
    return JSONResponse(answer, headers=rendering.HEADERS)


@router.get("/pipelines/{name}/start")
def start(name: str) -> Response:
    """To the form, which is a part of the page of the pipeline."""
    return RedirectResponse(f"/pipelines/{quote(name, safe='')}#start", 303)


@router.post("/pipelines/{name}/start")
def create_run(board: B, who: Who, name: str, form: Sent) -> Response:
    """Start a run. A form with faults is shown again with what was typed."""
    request, faults, _ = _request(board, name, form)
    _, faults, error = _checked(board, who, request, faults)
    if request is not None and not faults and not error:
        made = board.context.submitter.submit(request, actor=board.actor, projects=who.projects)
        return RedirectResponse(f"/runs/{made.run_id}", 303)
    values = _values(board, name, None, None)
    shown = _form(board, values["definition"], {})
    shown["fields"] = [forms.replaced(field, form.fields.get(f"p.{field.name}", [""])[0]) for field in shown["fields"]]
    sent = {each: form.one(each) for each in ("labels", "priority", "backend")}
    by_field, general = words.faults_by_field(faults)
    return board.page(
        "pipeline", "pipelines", 422, whole=False, faults=by_field, general=general, sent=sent, form_error=error,
        is_plain=False,
        **shown, **values,
    )  # fmt: skip


@router.post("/pipelines/{name}/switch")
def change_pipeline(board: B, name: str, form: Sent) -> Response:
    """Enable or disable a pipeline."""
    board.context.catalogue.change(name, enabled=form.one("enabled") == "1")
    board.changed(["pipelines"])
    return RedirectResponse(f"/pipelines/{name}", 303)
