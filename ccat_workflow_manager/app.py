"""The web application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from fastapi import APIRouter, FastAPI
from fastapi.telemetry import TelemetryConfig

from ccat_workflow_manager import __version__
from ccat_workflow_manager.api import (
    audit,
    breakers,
    deletions,
    events,
    explain,
    holds,
    ledger,
    login,
    metrics,
    overrides,
    pipelines,
    products,
    projects,
    replays,
    run_batches,
    runs,
    service,
    step_runs,
    tokens,
    webhooks,
)
from ccat_workflow_manager.api import (
    dashboard as figures,
)
from ccat_workflow_manager.api.authentication import Authenticator
from ccat_workflow_manager.api.dependencies import LARGE_AT_ONCE, PREFIX
from ccat_workflow_manager.api.event_stream import OpenStreams
from ccat_workflow_manager.api.guard import Guard
from ccat_workflow_manager.api.openapi import PROBLEMS, DocumentedApp, operation_id
from ccat_workflow_manager.api.problems import handle_errors
from ccat_workflow_manager.api.rate_limit import RateLimit
from ccat_workflow_manager.api.route import declare
from ccat_workflow_manager.api.run_watch import RunWatch
from ccat_workflow_manager.api.tes import routes as tes
from ccat_workflow_manager.api.trace import Observed
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.dashboard import router as dashboard
from ccat_workflow_manager.dashboard.parts import KeptParts
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.services.log_stream import LogStreams

_NO_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False)
"""FastAPI's own: it would look at each request whether something collects it."""


def create_app(context: Context, *, secret: str | None = None) -> FastAPI:
    """The application for this context, closed at shutdown.

    Without AUTH_REQUIRED, calls of other users need the `secret`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        context.feed.close()
        context.close()

    # The interactive pages of FastAPI load scripts from the internet, so there is only /openapi.json.
    app = DocumentedApp(
        title="CCAT workflow manager",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=_routes().routes,
        telemetry=_NO_TELEMETRY,
    )
    app.state.context = context
    app.state.has_log_in = context.session_key is not None  # a weak key is refused now, not at the first log-in
    app.state.large_bodies = asyncio.Semaphore(LARGE_AT_ONCE)
    app.state.large_answers = asyncio.Semaphore(LARGE_AT_ONCE)
    app.state.run_watch = RunWatch(context)
    app.state.log_streams = LogStreams(context.settings.event_streams)
    app.state.answers = Answers()
    authenticator = Authenticator(context, secret)
    app.state.open_streams = OpenStreams(authenticator)
    limit = RateLimit(context.settings.api_requests_per_second)
    app.add_middleware(KeptParts)
    app.add_middleware(Guard, hosts=context.settings.api_names, authenticator=authenticator, limit=limit)
    handle_errors(app)
    app.add_middleware(Observed)
    dashboard.mount(app, context)
    declare(app)
    return app


@cache
def _routes() -> APIRouter:
    """All routes but those of files. FastAPI needs a third of a second to prepare them: applications share them."""
    routes = APIRouter(generate_unique_id_function=operation_id)
    for resource in (
        run_batches, runs, replays, deletions, step_runs, pipelines, products, breakers, events, webhooks, tokens,
        audit, holds, overrides, projects, explain, ledger, service, figures,
    ):  # fmt: skip
        routes.include_router(resource.router, prefix=PREFIX, responses=PROBLEMS)
    for prefix in tes.PREFIXES:
        once = prefix == tes.PREFIXES[0]
        routes.include_router(tes.router, prefix=prefix, responses=PROBLEMS, include_in_schema=once)
    routes.include_router(service.health)
    routes.include_router(login.router, responses=PROBLEMS)
    routes.include_router(metrics.router, responses=PROBLEMS)
    for router in dashboard.PAGES:
        routes.include_router(router, include_in_schema=False)
    return routes
