"""Errors as pages, where a browser asked for one; the API keeps its problem documents."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ccat_workflow_manager.api.authentication import current_identity
from ccat_workflow_manager.api.problems import faults_of_request
from ccat_workflow_manager.dashboard.board import Board
from ccat_workflow_manager.errors import (
    AttemptError,
    BackendError,
    Fault,
    RequestError,
    ServiceUnavailable,
    WorkflowError,
)
from ccat_workflow_manager.identity import ANONYMOUS
from ccat_workflow_manager.threads import in_thread

Handler = Callable[[Request, Exception], Awaitable[Response]]


def wants_page(request: Request) -> bool:
    """Whether a person sees the answer: a browser asks for HTML, and not below the prefix of the API."""
    path = request.url.path
    is_api = path.startswith(("/api/", "/healthz", "/readyz", "/metrics"))
    return not is_api and "text/html" in request.headers.get("accept", "")


def is_for_sheet(request: Request) -> bool:
    """Whether a script asks, which puts the answer into the page that is open."""
    return request.headers.get("x-part") == "sheet"


def show_errors_as_pages(app: FastAPI) -> None:
    """Wrap the handlers of the API: a browser gets a page."""
    for kind in (WorkflowError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _or_page(app.exception_handlers[kind]))


def _or_page(handler: Any) -> Handler:
    async def handle(request: Request, error: Exception) -> Response:
        response: Response = await handler(request, error)
        if not wants_page(request) or response.status_code < HTTPStatus.BAD_REQUEST:
            return response
        status = response.status_code
        text, faults = _said(error, request, response)
        reader = current_identity(request) or ANONYMOUS
        board, title = Board(request, reader.name), _TITLES.get(status, HTTPStatus(status).phrase)
        back = request.url.path if status == HTTPStatus.UNPROCESSABLE_ENTITY and request.url.query else ""
        if is_for_sheet(request):
            show = partial(board.fragment, "refused", status)
        else:
            show = partial(board.page, "error", "", status, code=status, back=back)
        page = await in_thread(partial(show, title=title, text=text, faults=faults))
        for name, value in response.headers.items():
            page.headers.setdefault(name, value)
        return page

    return handle


_NOTHING = ("Nothing was looked up.", "Nothing was changed.")
_TITLES = {
    404: "There is nothing here",
    403: "This is not allowed",
    405: "This address takes no such request",
    409: "This cannot be done now",
    422: "The address or form has a fault",
    500: "This is a fault of the service",
    503: "The service cannot answer now",
}


def _said(error: Exception, request: Request, response: Response) -> tuple[str, list[Fault]]:
    match error:
        case RequestError(faults=faults) if faults and error.message == "; ".join(map(str, faults)):
            return _NOTHING[request.method == "POST"], list(faults)
        case RequestError():
            return error.message, list(error.faults)
        case ServiceUnavailable() | BackendError() | AttemptError():
            return error.message, []
        case RequestValidationError():
            return _NOTHING[request.method == "POST"], faults_of_request(error)
        case _:
            detail: str = json.loads(bytes(response.body))["detail"]
            return f"{detail[:1].upper()}{detail[1:]}.", []
