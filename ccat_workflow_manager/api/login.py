"""Log-in of people by token, and log-out. The dashboard draws the form."""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeVar
from urllib.parse import parse_qs, quote
from uuid import UUID

from fastapi import Request
from pydantic import BaseModel, Field, StrictStr
from starlette.responses import RedirectResponse, Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.authentication import COOKIE, Caller
from ccat_workflow_manager.api.dependencies import Body, Ctx, Given, RawBody
from ccat_workflow_manager.api.forwarded import address_of
from ccat_workflow_manager.api.openapi import Shape
from ccat_workflow_manager.api.paging import json_response
from ccat_workflow_manager.api.problems import problem
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Conflict
from ccat_workflow_manager.identity import Identity, Role
from ccat_workflow_manager.services.sessions import LIFETIME, Sessions

router = api_router(tags=["log-in"])

M = TypeVar("M", bound=BaseModel)

_FORM = "application/x-www-form-urlencoded"


class LogIn(Shape):
    token: StrictStr = Field(max_length=1000)
    next: StrictStr = Field(default="/", max_length=2000, description="For forms: the page to go to.")


class LogOut(Shape):
    everywhere: bool = Field(default=False, description="End all sessions of this person.")


class LoggedIn(Shape):
    name: str
    role: Role
    projects: list[str] | None = Field(description="null: all.")
    csrf_token: str = Field(description="The header `X-CSRF-Token` of changes that come from no page of this site.")


def _caller(request: Request) -> Caller | None:
    caller: Caller | None = request.scope["state"].get("caller")
    return caller


@router.post("/login", response_model=LoggedIn, openapi_extra=openapi.body(LogIn, openapi.LOG_IN_EXAMPLES))
def log_in(context: Ctx, request: Request, body: Body) -> Response:
    """Begin a session with a token, as JSON or as a form. The session ends with the token."""
    _sessions(context)
    asked = _of_form(body, LogIn) if (is_form := body.media_type == _FORM) else body.parse(LogIn)
    onward = page_of_ours(asked.next)
    token = context.tokens.check(asked.token.strip())
    if token is None:
        if is_form:
            return RedirectResponse(f"/login?failed=1&next={quote(onward, safe='')}", 303)
        challenge = {"WWW-Authenticate": 'Bearer realm="ccat-wm"'}
        return problem(401, "unauthorized", "this is no valid token", headers=challenge)
    return begin_session(context, request, token.identity, RedirectResponse(onward, 303) if is_form else None, token.id)


def page_of_ours(path: str) -> str:
    """The path if it stays on this site, else `/`."""
    is_local = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable() and " " not in path
    return path if is_local else "/"


def begin_session(
    context: Context, request: Request, identity: Identity, response: Response | None, token_id: UUID | None = None
) -> Response:
    """Begin a session and set its cookie on the response; without one, on the identity as JSON."""
    sessions = _sessions(context)
    change = audit.Change(identity, "log_in", "sessions", address_of(request), request.state.request_id)
    with audit.audited(change):
        session_id, cookie = sessions.open(identity, token_id)
    if response is None:
        shown = {
            "name": identity.name,
            "role": identity.role,
            "projects": None if identity.projects is None else sorted(identity.projects),
            "csrf_token": sessions.proof(session_id),
        }
        response = json_response(json.dumps(shown))
    response.headers["Cache-Control"] = "no-store"
    set_cookie(context, response, COOKIE, cookie, int(LIFETIME.total_seconds()), "strict")
    return response


def set_cookie(
    context: Context, response: Response, name: str, value: str, seconds: int, same_site: Literal["strict", "lax"]
) -> None:
    """Set a cookie that scripts do not see."""
    secure = context.settings.environment != "localdev"
    response.set_cookie(name, value, max_age=seconds, httponly=True, samesite=same_site, secure=secure)


@router.post("/logout", response_model=LogOut, openapi_extra=openapi.body(LogOut, openapi.LOG_OUT_EXAMPLES))
def log_out(context: Ctx, body: Body, caller: Annotated[Caller | None, Given(_caller)]) -> Response:
    """End this session, or all of this person, as JSON or as a form."""
    asked = _of_form(body, LogOut) if (is_form := body.media_type == _FORM) else body.parse(LogOut)
    sessions = _sessions(context)
    audit.describe(target="sessions")
    if caller is None or caller.session_id is None:
        raise Conflict("this call is not made in a session")
    if asked.everywhere:
        sessions.end_all(caller.identity)
    else:
        sessions.end(caller.session_id)
    response = RedirectResponse("/login", 303) if is_form else json_response(asked.model_dump_json())
    response.delete_cookie(COOKIE)
    return response


def _sessions(context: Context) -> Sessions:
    if context.sessions is None:
        raise Conflict("this service has no log-in for people: SESSION_KEY_FILE is not set")
    return context.sessions


def _of_form(body: RawBody, model: type[M]) -> M:
    fields = parse_qs(body.data.decode("utf-8", "replace"), keep_blank_values=True)
    return validated(model, {name: values[0] for name, values in fields.items()})
