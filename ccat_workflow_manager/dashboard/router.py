"""The pages of the dashboard, and what an application needs beside their routes."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.dashboard import assets, live
from ccat_workflow_manager.dashboard.errors import show_errors_as_pages
from ccat_workflow_manager.dashboard.pages import (
    act,
    act_on_step_run,
    compare,
    events,
    holds,
    login,
    overview,
    pipelines,
    products,
    projects,
    run,
    runs,
    service,
    step_run,
)
from ccat_workflow_manager.dashboard.parts import Parts

PAGES: tuple[APIRouter, ...] = (
    overview.router,
    runs.router,
    run.router,
    compare.router,
    holds.router,
    step_run.router,
    act_on_step_run.router,
    act.router,
    pipelines.router,
    products.router,
    projects.router,
    events.router,
    service.router,
    live.router,
    login.router,
)


def mount(app: FastAPI, context: Context) -> None:
    """Add the static files and the errors of the pages. The paths of the API stay as they are."""
    app.state.parts = Parts()
    app.state.live = live.Live(context, app.state.answers)
    app.add_route("/static/{version}/{name:path}", assets.serve, include_in_schema=False)
    show_errors_as_pages(app)
