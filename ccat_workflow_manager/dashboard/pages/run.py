"""One run: the graph of its steps, its keys over time or as a field, what it waits for, what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from starlette.responses import JSONResponse, Response

from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import rendering, times, words
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.drawing import gantt
from ccat_workflow_manager.dashboard.drawing.graph import Node, graph
from ccat_workflow_manager.dashboard.drawing.shapes import GROUP_OF, LETTERS
from ccat_workflow_manager.dashboard.parts import shared
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.queries.overrides import overrides_of_run
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import run as view
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.services.explain import explain_run

router = page_router()

Order = Literal["given", "slowest", "open"]
Keys = Literal["", "timeline", "field"]
Skip = Annotated[int, Query(ge=0, le=10_000_000)]
Tab = Literal["overview", "why", "events", "parameters", "definition"]
_EVENTS = 20
_MORE_EVENTS = 200


def _gathered(unit: UnitOfWork, run_id: UUID, order: str, keys_as: str, skip: int) -> dict[str, Any]:
    head = view.head(unit, run_id)
    if head is None:
        raise NotFound(f"there is no run {run_id}")
    steps = view.steps(unit, run_id)
    found = {
        "run": head,
        "steps": steps,
        "waits": view.waits(unit, run_id) if head["finished_at"] is None else [],
        "overrides": overrides_of_run(unit, run_id),
        "breakers": view.held_back(unit, run_id) if head["finished_at"] is None else [],
        "failures": view.failures(unit, run_id) if head["counts"]["FAILED"] else [],
        "events": view.latest_events(unit, run_id, _EVENTS),
        "products": view.products(unit, run_id),
    }
    found |= _keys(unit, head, steps, order, keys_as, skip)
    return found


def _keys(
    unit: UnitOfWork, run: Mapping[str, Any], steps: list[dict[str, Any]], order: str, keys_as: str, skip: int
) -> Any:
    """The steps with the most keys, as a timeline of their first keys or as a field of all."""
    most = max((step["total"] for step in steps), default=0)
    wide = [step for step in steps if step["total"] == most] if most > 1 else []
    shown = keys_as or ("timeline" if most <= view.MOST_KEYS else "field")
    found: dict[str, Any] = {"wide": wide, "keys_as": shown, "order": order, "rows": [], "most": most, "fields": []}
    found |= {"skip": skip, "page": view.MOST_KEYS}
    if not wide:
        wide = steps
        found |= {"wide": steps, "keys_as": "steps"}
    positions, run_id = [step["position"] for step in wide], UUID(run["id"])
    if found["keys_as"] == "field":
        cells = view.field(unit, run_id, positions)
        found["fields"] = [
            {**step, "cells": "".join(LETTERS[GROUP_OF[each]] for each in cells[step["position"]][0])}
            for step in wide
            if step["position"] in cells
        ]
        return found
    keys = ["main"]
    if found["keys_as"] == "timeline":
        keys = view.keys(unit, run_id, positions[0], order, view.MOST_KEYS, skip)
    step_runs = view.cells(unit, run_id, positions, keys)
    retried = view.attempts(unit, [each["id"] for each in step_runs if each["attempt"] > 1])
    return found | _timeline(run, step_runs, retried, keys, positions, by_step=found["keys_as"] == "steps")


def _timeline(
    run: Mapping[str, Any],
    step_runs: list[dict[str, Any]],
    attempts: Mapping[str, Any],
    keys: list[str],
    positions: list[int],
    *,
    by_step: bool,
) -> dict[str, Any]:
    first = times.parse(run["started_at"] or run["created_at"])
    until = times.parse(run["finished_at"]) or times.now()
    assert first is not None
    scale = gantt.Scale(first, until, run["finished_at"] is None)
    by_row: dict[object, list[dict[str, Any]]] = {}
    for each in sorted(step_runs, key=lambda one: positions.index(one["position"])):
        by_row.setdefault(each["position"] if by_step else each["key"], []).append(each)
    rows = []
    for key in positions if by_step else keys:
        found = by_row.get(key, [])
        texts = [words.key_note(each, several=len(positions) > 1) for each in found]
        note = next((text for text in reversed(texts) if text), "")
        rows.append({"key": key, "cells": found, "bars": gantt.row(scale, found, attempts), "note": note})
    return {"rows": rows, "ticks": scale.ticks(), "going_on": scale.going_on}


def draw(run_id: object, steps: list[dict[str, Any]], chosen: str = "") -> Any:
    """The graph of a run."""
    names = {step["position"]: step["name"] for step in steps}
    upstream: dict[str, list[str]] = {step["name"]: [] for step in steps}
    by_key = set()
    for step in steps:
        for after in (*step["downstream_key"], *step["downstream_all"]):
            upstream[names[after]].append(step["name"])
        by_key |= {(step["name"], names[after]) for after in step["downstream_key"]}
    unfinished = {step["name"] for step in steps if step["remaining"] > 0}
    nodes = {}
    for step in steps:
        before = [name for name in upstream[step["name"]] if name in unfinished]
        status, note = words.step_note(step, before)
        kind = "sel" if step["name"] == chosen else "idle" if status == "PENDING" else ""
        href = f"/runs/{run_id}/steps/{step['name']}"
        nodes[step["name"]] = Node(status, words.groups(step["counts"]), note, href, kind)
    return graph(upstream, nodes, frozenset(by_key))


def _values(board: Board, run_id: UUID, order: Order, keys: str, skip: int) -> dict[str, Any]:
    found = board.read(("run", run_id, order, keys, skip), lambda unit: _gathered(unit, run_id, order, keys, skip))
    return {**found, "dag": draw(run_id, found["steps"]), "path": f"/runs/{run_id}"}


@router.get("/runs/{run_id}")
def run(
    board: B, run_id: UUID, tab: Tab = "overview", order: Order = "given", keys: Keys = "", skip: Skip = 0
) -> Response:
    values = _values(board, run_id, order, keys, skip)
    if tab == "why":
        about = {"id": run_id, "status": values["run"]["status"]}
        values["why"] = board.read(("run why", run_id), lambda unit: explain_run(unit, about), 5)
    if tab == "events":
        values["events"] = board.read(
            ("run events", run_id), lambda unit: view.latest_events(unit, run_id, _MORE_EVENTS)
        )
    if tab == "definition":
        spec = board.read(
            ("spec", values["run"]["spec_id"]),
            lambda unit: PipelineStore(unit).by_id(UUID(values["run"]["spec_id"])).content,
            60,
        )
        values["definition"] = rendering.pretty(spec)
    return board.page("run", "runs", tab=tab, keys_wanted=keys, **values)


@router.get("/ui/runs/{run_id}")
@shared
def run_part(board: B, run_id: UUID, order: Order = "given", keys: Keys = "", skip: Skip = 0) -> Rendered:
    return board.part("run", tab="overview", keys_wanted=keys, **_values(board, run_id, order, keys, skip))


@router.get("/ui/runs/{run_id}/keys")
def run_keys(board: B, run_id: UUID, step: int) -> Response:
    """The keys of a step in the order of the field, for the pointer."""
    found = board.read(("keys", run_id, step), lambda unit: view.field(unit, run_id, [step]), 5)
    if step not in found:
        raise NotFound(f"there is no step {step} in run {run_id}")
    statuses, keys = found[step]
    return JSONResponse({"keys": keys.split("\n"), "statuses": statuses}, headers=rendering.HEADERS)
