"""What previews, actions and reports share: the form that was sent, its terms, and the sheet that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import Request
from starlette.responses import Response

from ccat_workflow_manager.api.dependencies import Given, body_of
from ccat_workflow_manager.api.overrides import Terms
from ccat_workflow_manager.dashboard import forms
from ccat_workflow_manager.dashboard.board import Board
from ccat_workflow_manager.dashboard.errors import is_for_sheet
from ccat_workflow_manager.db.views.actions import MOST_RUNS
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Fault, Invalid, RequestError
from ccat_workflow_manager.lifecycle.overrides import Term
from ccat_workflow_manager.services.retry_request import RetryRequest

TERM = ("why", "ends", "until")
RESOURCES = ("memory_gb", "cpu", "time_hours")


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form that was sent."""

    fields: dict[str, list[str]]

    def one(self, name: str, default: str = "") -> str:
        return self.fields.get(name, [default])[0]

    def ids(self) -> list[UUID]:
        given = [*self.fields.get("id", ()), *(each for each in self.one("ids").split(",") if each)]
        return uuids(given)


def _form(request: Request) -> Form:
    body = body_of(request)
    if body.media_type != "application/x-www-form-urlencoded":
        raise Invalid(faults=[Fault("", "a form must be sent as application/x-www-form-urlencoded")])
    return Form(parse_qs(body.data.decode("utf-8", "replace"), keep_blank_values=True))


Sent = Annotated[Form, Given(_form, reads_body=True)]


def uuids(texts: Sequence[str]) -> list[UUID]:
    try:
        found = list(dict.fromkeys(UUID(text) for text in texts))
    except ValueError:
        raise Invalid(faults=[Fault("id", "is not the id of a run")]) from None
    if len(found) > MOST_RUNS:
        raise Invalid(faults=[Fault("id", f"an action takes at most {MOST_RUNS} runs")])
    return found


def sheet(board: Board, template: str, http_status: int = 200, **values: Any) -> Response:
    """The part alone for a script, a whole page otherwise."""
    if is_for_sheet(board.request):
        return board.fragment(template, http_status, level="h2", **values)
    return board.page("act", "runs", http_status, part=f"fragments/{template}.html", level="h1", **values)


def faults_of(error: RequestError) -> list[Fault]:
    return list(error.faults) or [Fault("", error.message)]


def term(board: Board, form: Form) -> Term:
    """Why, and until when, a change is made. Raises Invalid."""
    given = {"why": form.one("why").strip(), "until": forms.end_of(form.one("ends"), form.one("until"))}
    return validated(Terms, {name: value for name, value in given.items() if value}).term(board.actor)


def retry_request(form: Form, step: str | None = None) -> RetryRequest:
    """With what the next attempts are to run; empty fields stay as they are. Raises Invalid."""
    resources = {name: forms.number(text) for name in RESOURCES if (text := form.one(name).strip())}
    given: dict[str, Any] = {"step": step, "backend": form.one("backend"), "reason": form.one("why").strip()}
    if resources or given["backend"]:
        given |= {"resources": resources, "until": forms.end_of(form.one("ends"), form.one("until"))}
    return validated(RetryRequest, {name: value for name, value in given.items() if value})
