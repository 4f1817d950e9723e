"""Turns every error into a problem document (RFC 9457), unexpected exceptions included."""

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

from ccat_workflow_manager.definition.messages import message_of
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


class BodyTooSlow(RequestError):
    """The body took too long."""

    code = "body_too_slow"
    http_status = 408


class UnsupportedMediaType(RequestError):
    """Unsupported media type."""

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
    # json.dumps escapes to ASCII: a message may quote half of a surrogate pair, which UTF-8 cannot encode.
    return Response(json.dumps(document), status, headers, MEDIA_TYPE)


def of_error(error: WorkflowError) -> Response:
    """The problem document of an error of this package."""
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
    return problem(500, "internal_error", f"internal error; the log of the service has it as incident {incident}")


# --- handlers -------------------------------------------------------------------------------------------------------


async def _on_unexpected(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        raise error
    return _unexpected(error)


async def _on_workflow_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WorkflowError)
    return of_error(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        hint = "; addresses end without a slash" if request.url.path.endswith("/") else ""
        detail = f"there is nothing at {request.url.path}{hint}"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not allowed here"
    else:
        detail = str(error.detail)
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, _CODES.get(error.status_code, "request_error"), detail, headers=headers)


def faults_of_request(error: RequestValidationError) -> list[Fault]:
    """What is wrong with the path, the query and the headers of a request."""
    return [Fault(path_text(detail["loc"][1:]), message_of(detail)) for detail in error.errors()]


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = faults_of_request(error)
    return problem(422, "invalid", "; ".join(map(str, faults)), faults)


def handle_errors(app: FastAPI) -> None:
    """Install the handlers that turn errors into problem documents."""
    app.add_exception_handler(WorkflowError, _on_workflow_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_unexpected)
    app.add_middleware(CatchAll)


class CatchAll:
    """Outermost middleware: answers an unexpected exception around the routes, so that the server goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_record(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except ClientDisconnect:
            log.debug("a client disconnected before its request was complete")
        except Exception as error:  # a request
            response = _unexpected(error)
            if started:
                raise  # the server cuts the connection, so that the client sees an incomplete response
            await response(scope, receive, send)
