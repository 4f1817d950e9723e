"""Backends, workers, the audit, tokens, and the search field."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from starlette.responses import RedirectResponse, Response

from ccat_workflow_manager.api.audit import require_known_action
from ccat_workflow_manager.api.dependencies import Who
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.api.service import availabilities
from ccat_workflow_manager.api.tokens import TokenRequest
from ccat_workflow_manager.dashboard import filters, forms, holds, times
from ccat_workflow_manager.dashboard.acting import Sent
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.drawing import uptime
from ccat_workflow_manager.dashboard.parts import shared
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.db.queries.audit import audit_page
from ccat_workflow_manager.db.queries.service import BackendState, backend_changes, backend_states, workers_page
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.tokens import TokenStore
from ccat_workflow_manager.db.views import search as view
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Fault, Invalid, RequestError
from ccat_workflow_manager.identity import Role
from ccat_workflow_manager.lifecycle.holds import Kind
from ccat_workflow_manager.services.queues import stored_queues

router = page_router()

_PAGE = 100
_QUIET_SECONDS = 60
_MINUTES = 60


# --- backends and workers -------------------------------------------------------------------------------------------


def _backends(board: Board) -> dict[str, Any]:
    states = board.read("backend states", lambda unit: dict(backend_states(unit, board.projects)))
    changes = board.read("backend changes", lambda unit: backend_changes(unit, uptime.SHOWN.total_seconds()))
    known = availabilities.get(board.context.settings)
    items, now = [], times.now()
    for name in sorted(known.keys() | states.keys()):
        state, about = states.get(name) or BackendState(), known.get(name)
        used = name in states or name == board.context.settings.hpc_backend
        queues = stored_queues(board.context.doorbell, name)
        items.append(
            {
                "name": name,
                **asdict(state),
                "is_unserved": state.is_unserved,
                "queues": queues,
                "calls": queues[0]["details"] if queues and "calls_per_minute" in queues[0]["details"] else None,
                "default": name == board.context.settings.hpc_backend,
                "used": used,
                "away": uptime.away_spans(changes.get(name, ()), state.problem is not None, now),
                "reason": about.reason if about else "is not installed in the environment of this process",
                "hint": about.installation_hint if about else "",
                "available": bool(about and about.available),
            }
        )
    items.sort(key=lambda each: (not each["problem"], not each["used"], each["name"]))
    paused = holds.values(board, lambda hold: hold.kind in (Kind.BACKEND, Kind.SERVICE))
    held = {each.name: each for each in paused["holds"] if each.kind is Kind.BACKEND}
    away = sum(1 for each in items if each["problem"])
    unserved = [each["name"] for each in items if each["is_unserved"]]
    return {"items": items, "away": away, "unserved": unserved, "now": now, "held": held, **paused}


@router.get("/backends")
def backends(board: B) -> Response:
    return board.page("backends", "backends", **_backends(board), **_workers(board))


@router.get("/ui/backends")
@shared
def backends_part(board: B) -> Rendered:
    return board.part("backends", **_backends(board), **_workers(board))


def _workers(board: Board) -> dict[str, Any]:
    def look(unit: UnitOfWork) -> list[dict[str, Any]]:
        return [json.loads(row.json) for row in workers_page(unit, None, 1000, board.projects)]

    found = board.read("workers", look)
    late = {each["id"] for each in found if (times.since(each["seen_at"]) or 0) > _QUIET_SECONDS}
    for each in found:
        whole = each["ended_by_minute"][:-1]  # the present minute is not over
        each["pace"] = [*[0] * (_MINUTES - len(whole)), *whole]
        each["last_hour"] = sum(each["ended_by_minute"])
    return {
        "workers": found,
        "late": late,
        "last_hour": sum(each["last_hour"] for each in found),
        "may_drain": Kind.SERVICE in holds.may_hold(board),
    }


@router.get("/workers")
def workers(board: B) -> Response:
    return board.page("workers", "workers", **_workers(board))


@router.get("/ui/workers")
@shared
def workers_part(board: B) -> Rendered:
    return board.part("workers", **_workers(board))


@router.post("/workers/{worker}/drain")
def drain_worker(board: B, worker: str) -> Response:
    """Have a worker take no new work. It can be taken back at once, so there is no preview."""
    board.context.workers.drain(worker, actor=board.actor, why=None)
    board.changed(["backends", "summary"])
    return RedirectResponse("/workers", 303)


@router.post("/workers/{worker}/resume")
def resume_worker(board: B, worker: str) -> Response:
    board.context.workers.resume(worker)
    board.changed(["backends", "summary"])
    return RedirectResponse("/workers", 303)


# --- audit ------------------------------------------------------------------------------------------------------------


@router.get("/audit")
def audit(
    board: B, who: Who, actor: str = "", action: str = "", on: str = "", since: str = "", cursor: int | None = None
) -> Response:
    wanted = {"actor": actor or None, "action": action or None, "object": on or None}
    try:
        begin: datetime | None = filters.moment(since) if since else None
    except ValueError as error:
        raise Invalid(faults=[Fault("since", str(error))]) from None
    with board.context.database.read() as unit:
        rows = audit_page(unit, cursor, _PAGE + 1, projects=who.projects, since=begin, until=None, **wanted)
    if action and not rows and cursor is None:
        require_known_action(action, board.request)
    items = [json.loads(row.json) for row in rows]
    sent = {"actor": actor, "action": action, "on": on, "since": since}
    older = (
        filters.Conditions(tuple(sent.items())).query(cursor=str(items[_PAGE - 1]["id"])) if len(items) > _PAGE else ""
    )
    return board.page("audit", "audit", items=items[:_PAGE], older=older, sent=sent)


# --- tokens ---------------------------------------------------------------------------------------------------------


def _tokens(board: Board, who: Any, http_status: int = 200, **more: Any) -> Response:
    with board.context.database.read() as unit:
        items = [json.loads(row.json) for row in TokenStore(unit).page(None, 200, who.projects)]
    values = {"made": "", "faults": [], "sent": {"name": "", "role": "submitter", "projects": "", "days": "90"}, **more}
    return board.page("tokens", "tokens", http_status, items=items, roles=list(Role), **values)


@router.get("/tokens")
def tokens(board: B, who: Who) -> Response:
    return _tokens(board, who)


@router.post("/tokens")
def create_token(board: B, who: Who, form: Sent) -> Response:
    """Make a token. It is shown this once."""
    sent = {each: form.one(each) for each in ("name", "role", "projects", "days")}
    body: dict[str, Any] = {"name": sent["name"], "role": sent["role"]}
    if names := sent["projects"].replace(",", " ").split():
        body["projects"] = names
    try:
        if sent["days"]:
            days = forms.whole(sent["days"])
            if days is None or not 0 < days < 10_000:
                raise Invalid(faults=[Fault("expires_at", "must be a number of days")])
            body["expires_at"] = times.in_days(days)
        asked = validated(TokenRequest, body)
        projects = None if asked.projects is None else frozenset(asked.projects)
        made = board.context.tokens.create(
            asked.name, asked.role, by=who, projects=projects, expires_at=asked.expires_at
        )
    except RequestError as error:
        faults = list(error.faults) or [Fault("", error.message)]
        return _tokens(board, who, error.http_status, faults=faults, sent=sent)
    answer = _tokens(board, who, made=made.secret)
    answer.headers["Cache-Control"] = "no-store"
    return answer


@router.post("/tokens/{token_id}/revoke")
def revoke_token(board: B, who: Who, token_id: UUID) -> Response:
    board.context.tokens.revoke(token_id, by=who)
    return RedirectResponse("/tokens", 303)


# --- the search field -----------------------------------------------------------------------------------------------


@router.get("/go")
def go(board: B, q: str = "") -> Response:
    """Jump to what the text names, if it is one thing; else show what it may be."""
    text = q.strip()[:200]
    if not text:
        return RedirectResponse("/runs", 303)
    found = board.read(("go", text), lambda unit: view.find(unit, text, board.projects))
    if len(found) == 1:
        address, kind = found[0]
        conditions = filters.Conditions((("label", text),))
        return RedirectResponse(f"/runs{conditions.query()}" if kind == "label" else address, 303)
    if not found:
        return RedirectResponse(f"/runs{filters.Conditions((('q', text),)).query()}", 303)
    return board.page("go", "", q=text, found=found)
