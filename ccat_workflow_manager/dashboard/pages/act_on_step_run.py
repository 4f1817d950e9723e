"""Cancel or retry one step run, the latter with other resources or on another backend: preview, action, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from starlette.responses import Response

from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import words
from ccat_workflow_manager.dashboard.acting import (
    RESOURCES,
    TERM,
    Form,
    Sent,
    faults_of,
    retry_request,
    sheet,
    uuids,
)
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.views import actions as view
from ccat_workflow_manager.errors import Fault, Invalid, NotFound

router = page_router()


def _found(board: Board, verb: str, step_run_id: UUID) -> dict[str, Any]:
    if verb not in ("cancel", "retry"):
        raise NotFound(f"there is no action {verb!r} for one step run")
    with board.context.database.read() as unit:
        found = view.step_run(unit, step_run_id, board.projects)
    if found is None:
        raise NotFound(f"there is no step run {step_run_id}")
    return found


def preview(
    board: Board, verb: str, step_run_id: UUID, http_status: int = 200, form: Form | None = None,
    faults: Sequence[Fault] = (),
) -> Response:  # fmt: skip
    found = _found(board, verb, step_run_id)
    possible = found["cancellable"] if verb == "cancel" else found["retryable"]
    sent = {each: (form or Form({})).one(each) for each in (*RESOURCES, "backend", *TERM)}
    return sheet(
        board, "preview_step_run", http_status, verb=verb, found=found, possible=possible, sent=sent, faults=faults,
        backends=sorted(board.context.holds.known_backends),
    )  # fmt: skip


@router.post("/act/step-run/{verb}")
def act(board: B, verb: str, form: Sent) -> Response:
    (step_run_id,) = uuids([form.one("step_run")])
    found = _found(board, verb, step_run_id)
    audit.describe(action=f"{verb}_step_run", target=f"step-runs/{step_run_id}", project=found["project"])
    requests = board.context.requests
    if verb == "cancel":
        requests.cancel_step_runs([step_run_id], actor=board.actor)
        line = "It is cancelled once its job is known to be gone."
    else:
        try:
            number = requests.retry_step_runs([step_run_id], retry_request(form), actor=board.actor)
        except Invalid as error:
            return preview(board, verb, step_run_id, error.http_status, form, faults_of(error))
        line = f"{words.count(number, 'step run')} {'is' if number == 1 else 'are'} open again."
    board.changed([f"run:{found['run_id']}"])
    href = f"/step-runs/{step_run_id}"
    return sheet(board, "report", title=words.DONE[verb], lines=[line], href=href, failed="")
