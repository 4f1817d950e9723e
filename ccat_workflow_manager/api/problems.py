"""Every error as a problem document (RFC 9457), and the edge at which an unexpected exception becomes one too."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccat_workflow_manager.errors import (
    AttemptError,
    BackendError,
    Fault,
    RequestError,
    ServiceUnavailable,
    WorkflowError,
)
from ccat_workflow_manager.json_values import path_text

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
_MOST_DETAIL = 2000
_CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


class MalformedBody(RequestError):
    """The body cannot be read."""

    code = "malformed_body"
    http_status = 400


class BodyTooLarge(RequestError):
    """The body is too large."""

    code = "body_too_large"
    http_status = 413


class UnsupportedMediaType(RequestError):
    """The body is of a type that this call does not take."""

    code = "unsupported_media_type"
    http_status = 415


def problem(
    status: int,
    code: str,
    detail: str,
    faults: Sequence[Fault] = (),
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Response:
    """A problem document as a response."""
    document = {
        "type": f"urn:ccat-workflow-manager:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail if len(detail) <= _MOST_DETAIL else detail[: _MOST_DETAIL - 3] + "...",
        "code": code,
        "faults": [{"path": fault.path, "message": fault.message} for fault in faults],
        **more,
    }
    # Escaped to ASCII, because a message may quote half of a surrogate pair.
    return Response(json.dumps(document), status, headers, MEDIA_TYPE)


def of_error(error: WorkflowError) -> Response:
    """The problem document of one of our errors."""
    match error:
        case RequestError():
            return problem(error.http_status, error.code, error.message, error.faults)
        case ServiceUnavailable() | BackendError():
            return problem(503, error.code, error.message, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        case AttemptError():
            return problem(404, error.code, error.message)
        case _:
            return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    incident = uuid4().hex[:12]
    log.error("incident %s", incident, exc_info=error)
    return problem(500, "internal_error", f"something went wrong in the service; its log has it as incident {incident}")


# --- handlers -------------------------------------------------------------------------------------------------------


async def _on_workflow_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WorkflowError)
    return of_error(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not possible here"
    else:
        detail = str(error.detail)
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, _CODES.get(error.status_code, "request_error"), detail, headers=headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [Fault(path_text(each["loc"][1:]), str(each["msg"])) for each in error.errors()]
    return problem(422, "invalid", "; ".join(map(str, faults)), faults)


def handle_errors(app: FastAPI) -> None:
    """Let no error leave the application in another form than a problem document."""
    app.add_exception_handler(WorkflowError, _on_workflow_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_middleware(Edge)


class Edge:
    """The outermost of our code: one request fails, the next goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            log.debug("a client left before its request was complete")
        except Exception as error:
            response = _unexpected(error)
            if started:
                raise  # the server cuts the connection, so that half an answer is not taken for a whole one
            await response(scope, receive, send)
