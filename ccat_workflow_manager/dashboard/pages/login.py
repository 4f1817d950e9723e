"""Log-in of people: the form for a token, and the way to the OpenID Connect provider and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Query, Request
from starlette.responses import RedirectResponse, Response

from ccat_workflow_manager.api.login import begin_session, page_of_ours, set_cookie
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.dashboard import rendering
from ccat_workflow_manager.errors import NotFound, RequestError, ServiceUnavailable

if TYPE_CHECKING:
    from ccat_workflow_manager.services.oidc import OpenIdConnect

router = page_router()

_ATTEMPT = "ccat_wm_log_in"
_CALLBACK = "/login/oidc/callback"
_NO_STORE = {"Cache-Control": "no-store"}
Onward = Annotated[str, Query(alias="next", max_length=2000)]
Given = Annotated[str, Query(max_length=4000)]


@router.get("/login")
def log_in(request: Request, onward: Onward = "/", failed: bool = False) -> Response:
    return _form(request, onward, failed=failed)


@router.get("/login/oidc")
def go_to_provider(request: Request, onward: Onward = "/") -> Response:
    """Send the person to the provider. The browser keeps what it must come back with."""
    context: Context = request.app.state.context
    provider = _provider(context)
    try:
        url, cookie = provider.start(_callback(request), page_of_ours(onward))
    except ServiceUnavailable as error:
        return _form(request, onward, trouble=error.message, status=503)
    response = RedirectResponse(url, 303, _NO_STORE)
    # Not `strict`: the provider, another site, sends the browser back.
    set_cookie(context, response, _ATTEMPT, cookie, provider.attempt_seconds, "lax")
    return response


@router.get(_CALLBACK)
def come_from_provider(request: Request, code: Given = "", state: Given = "", error: Given = "") -> Response:
    """Begin the session of a person whom the provider has sent back."""
    context: Context = request.app.state.context
    provider = _provider(context)
    try:
        attempt = provider.attempt_in(request.cookies.get(_ATTEMPT, ""), state)
        identity = provider.finish(attempt, code, error, _callback(request))
        # A redirect would still count as a visit from the provider's site, without the new cookie.
        page = rendering.html(request, rendering.render("pages/logged_in.html", {"onward": attempt.onward}))
        response = begin_session(context, request, identity, page)
    except ServiceUnavailable as trouble:
        response = _form(request, "/", trouble=trouble.message, status=503)
    except RequestError as trouble:
        response = _form(request, "/", trouble=trouble.message, status=trouble.http_status)
    response.delete_cookie(_ATTEMPT)
    return response


def _form(request: Request, onward: str, *, failed: bool = False, trouble: str = "", status: int = 200) -> Response:
    context: Context = request.app.state.context
    values = {
        "site": context.settings.environment,
        "onward": onward,
        "failed": failed,
        "trouble": trouble,
        "possible": context.sessions is not None,
        "provider": "" if context.oidc is None else context.oidc.name,
    }
    return rendering.html(request, rendering.render("pages/login.html", values), status, _NO_STORE)


def _provider(context: Context) -> OpenIdConnect:
    if context.oidc is None:
        raise NotFound("this service has no log-in by a provider: OIDC_ISSUER is not set")
    return context.oidc


def _callback(request: Request) -> str:
    """The address that the provider sends the person back to. `Guard` has checked the name of the host."""
    local = request.app.state.context.settings.environment == "localdev"
    return f"{request.url.scheme if local else 'https'}://{request.headers['host']}{_CALLBACK}"
