"""Actions in three parts: the preview says what will happen, the action does it, the report says what happened.

The preview holds the ids of the runs as they matched at that moment. What changed meanwhile is reported, not forced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from starlette.datastructures import QueryParams
from starlette.responses import Response

from ccat_workflow_manager.api.rights import BREAKER
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import filters, forms, words
from ccat_workflow_manager.dashboard.acting import (
    RESOURCES,
    TERM,
    Form,
    Sent,
    faults_of,
    retry_request,
    sheet,
    term,
    uuids,
)
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.pages import act_on_step_run
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import actions as view
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Conflict, Fault, Invalid, NotFound, RequestError, WorkflowError
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.services.run_request import LabelChange

router = page_router()

_AT_ONCE = 500
_NAMES = 50
_FIELDS = ("labels", "remove", "priority", "step", "backend", *RESOURCES, *TERM)
_PRIORITIES = range(-1000, 1001)
_ACTIONS = {"priority": "set_run_priority", "label": "set_run_labels"}
"""As the audit names them, where it is not `cancel_run` for `cancel`."""


def _verb(verb: str) -> str:
    if verb not in view.VERBS:
        raise NotFound(f"there is no action {verb!r}")
    return verb


# --- preview --------------------------------------------------------------------------------------------------------


def _preview(
    board: Board, verb: str, ids: list[UUID], matched: str = "", http_status: int = 200, **sent: Any
) -> Response:
    with board.context.database.read() as unit:
        runs = view.chosen(unit, ids, verb, board.projects)
        eligible = [run["id"] for run in runs if run["eligible"]]
        opened = view.reopened(unit, eligible) if verb == "retry" and eligible else []
    if not runs:
        raise NotFound("none of the chosen runs exists any more")
    return sheet(
        board, "preview", verb=verb, runs=runs, ids=eligible, opened=opened, matched=matched,
        preview=words.preview(verb, runs), is_cut=len(ids) >= view.MOST_RUNS, priority=runs[0]["priority"],
        hidden={"ids": ",".join(map(str, eligible))}, labels=_common_labels(runs),
        http_status=http_status, backends=sorted(board.context.holds.known_backends),
        **{"sent": dict.fromkeys(_FIELDS, ""), "faults": [], **sent},
    )  # fmt: skip


def _common_labels(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Names of labels that any of the runs has, for the field that removes them."""
    return sorted({name for run in runs for name in run["labels"]})[:_NAMES]


@router.get("/act/breaker")
def preview_release(board: B, breaker: Annotated[UUID, Query(alias="id")]) -> Response:
    board.require(BREAKER, breaker)
    return _preview_release(board, str(breaker), 200, Form({}), ())


def _preview_release(board: Board, breaker: str, http_status: int, form: Form, faults: Sequence[Fault]) -> Response:
    sent = {each: form.one(each) for each in TERM}
    return sheet(board, "preview_release", http_status, breaker=breaker, sent=sent, faults=faults)


@router.get("/act/{verb}")
def preview_one(
    board: B,
    verb: str,
    run: Annotated[UUID | None, Query(alias="id")] = None,
    step_run: UUID | None = None,
    breaker: UUID | None = None,
) -> Response:
    """The preview for one run, one step run, or all runs that a breaker holds back."""
    verb = _verb(verb)
    if step_run is not None:
        return act_on_step_run.preview(board, verb, step_run)
    if breaker is not None:
        board.require(BREAKER, breaker)
        with board.context.database.read() as unit:
            ids = view.of_breaker(unit, breaker)
        return _preview(board, verb, ids)
    if run is None:
        raise Invalid(faults=[Fault("id", "give the id of a run")])
    return _preview(board, verb, [run])


@router.post("/act")
def preview_many(board: B, form: Sent) -> Response:
    """The preview for chosen runs, or for all that match the conditions at this moment."""
    verb = _verb(form.one("verb"))
    if not form.one("all"):
        ids = form.ids()
        if not ids:
            raise Invalid(faults=[Fault("id", "choose at least one run")])
        return _preview(board, verb, ids)
    conditions = filters.of_query(QueryParams(form.one("conditions").removeprefix("?")))
    wanted = conditions.filter(board.projects)
    with board.context.database.read() as unit:
        ids = view.matching(unit, wanted, verb)
    matched = ", ".join(f"{token.name} {token.text}" for token in conditions.tokens) or "every run"
    if not ids:
        raise Conflict(f"No run that matches ({matched}) can be changed in this way now.")
    return _preview(board, verb, ids, matched)


# --- action and report ----------------------------------------------------------------------------------------------


def _act(board: Board, verb: str, form: Form) -> Callable[[list[UUID]], Sequence[UUID]]:
    requests, actor = board.context.requests, board.actor
    if verb == "priority":
        priority = forms.whole(form.one("priority"))
        if priority is None or priority not in _PRIORITIES:
            raise Invalid(faults=[Fault("priority", "must be a whole number from -1000 to 1000")])
        until = term(board, form)
        return lambda ids: requests.set_priority(ids, priority, until)

    if verb == "label":
        change = _labels(form)
        return lambda ids: requests.set_labels(ids, change)

    if verb == "pause":
        until = term(board, form)
        return lambda ids: requests.pause(ids, paused=True, term=until)

    if verb == "retry" and any(form.one(name) for name in ("step", "backend", *RESOURCES)):
        if not form.one("step"):
            raise Invalid(faults=[Fault("step", "choose the step whose next attempts have these")])
        wanted = retry_request(form, form.one("step"))
        return lambda ids: [each for each in ids if requests.retry_step(each, wanted, actor=actor)]

    def cancel(ids: list[UUID]) -> list[UUID]:
        requests.cancel(ids, actor=actor)
        return ids

    return {
        "cancel": cancel,
        "retry": lambda ids: list(requests.retry(ids, actor=actor)),
        "resume": lambda ids: requests.pause(ids, paused=False),
    }[verb]


def _labels(form: Form) -> LabelChange:
    """The labels of a form. Raises Invalid with the line that is wrong."""
    labels, faults = forms.labels(form.one("labels"))
    if faults:
        raise Invalid(faults=faults)
    remove = [each.strip() for each in form.one("remove").split(",") if each.strip()]
    if not labels and not remove:
        raise Invalid(faults=[Fault("labels", "give a label to set, or a name to remove")])
    return validated(LabelChange, {"labels": labels, "remove": remove})


def _still(unit: UnitOfWork, ids: list[UUID], verb: str, projects: Projects) -> list[UUID]:
    return [run["id"] for run in view.chosen(unit, ids, verb, projects) if run["eligible"]]


@router.post("/act/breaker")
def release_breaker(board: B, form: Sent) -> Response:
    (breaker,) = uuids([form.one("breaker")])
    board.require(BREAKER, breaker)
    try:
        board.context.breakers.release(breaker, term(board, form))
    except Invalid as error:
        return _preview_release(board, str(breaker), error.http_status, form, error.faults)
    board.changed(["breakers", "summary"])
    return sheet(board, "report", title="The breaker is released", lines=[words.RELEASED], href="/", failed="")


def _again(board: Board, verb: str, ids: list[UUID], form: Form, error: RequestError) -> Response:
    """The form with what was typed and what is wrong with it."""
    sent = {name: form.one(name) for name in _FIELDS}
    return _preview(board, verb, ids, "", error.http_status, sent=sent, faults=faults_of(error))


@router.post("/act/{verb}")
def act(board: B, verb: str, form: Sent) -> Response:
    """Do it, in portions of one transaction each. What was done before a failure stays done, and is reported."""
    verb, ids = _verb(verb), form.ids()
    if not ids:
        raise Invalid(faults=[Fault("ids", "there is nothing to do")])
    try:
        change = _act(board, verb, form)
    except RequestError as error:
        return _again(board, verb, ids, form, error)
    audit.describe(action=_ACTIONS.get(verb, f"{verb}_run"))
    done: list[UUID] = []
    failed = ""
    for start in range(0, len(ids), _AT_ONCE):
        try:
            with board.context.database.read() as unit:
                portion = _still(unit, ids[start : start + _AT_ONCE], verb, board.projects)
            done += change(portion) if portion else []
        except WorkflowError as error:
            if isinstance(error, Invalid) and not done:
                return _again(board, verb, ids, form, error)
            failed = error.message
            break
    board.changed(["runs", "summary", *(f"run:{each}" for each in done[:100])])
    title, lines = words.report(verb, len(done), len(ids))
    href = f"/runs/{ids[0]}" if len(ids) == 1 else "/runs"
    return sheet(board, "report", title=title, lines=lines, href=href, failed=failed)
