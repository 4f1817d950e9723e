"""The web application: the API, and whatever else is served over HTTP, around one context."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ccat_workflow_manager import __version__
from ccat_workflow_manager.api.openapi import DocumentedApp
from ccat_workflow_manager.api.problems import handle_errors
from ccat_workflow_manager.api.router import include_api
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import ConfigurationError


def create_app(context: Context) -> FastAPI:
    """The application for this context, which it closes when it ends."""
    if context.settings.auth_required:
        # Serving without a check what the operator wants checked would be worse than not serving.
        raise ConfigurationError(
            "AUTH_REQUIRED is true, but this version cannot check tokens: let the API listen on loopback behind a proxy"
            " that does, and set CCAT_WORKFLOW_MANAGER_AUTH_REQUIRED=false; or start it with --no-api"
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        context.close()

    # The interactive pages of FastAPI load their scripts from a server far away; /openapi.json is there for tools.
    app = DocumentedApp(
        title="CCAT workflow manager",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.context = context
    handle_errors(app)
    include_api(app)
    return app
