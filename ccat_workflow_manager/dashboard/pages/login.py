"""The form for a token, for people without a session."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ccat_workflow_manager.dashboard import rendering

router = APIRouter()


@router.get("/login")
def log_in(
    request: Request,
    onward: Annotated[str, Query(alias="next", max_length=2000)] = "/",
    failed: bool = False,
) -> Response:
    context = request.app.state.context
    values = {
        "site": context.settings.environment,
        "onward": onward,
        "failed": failed,
        "possible": context.sessions is not None,
    }
    return rendering.html(request, rendering.render("pages/login.html", values), headers={"Cache-Control": "no-store"})
