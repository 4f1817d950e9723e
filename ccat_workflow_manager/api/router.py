"""The calls of the API, put together."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from ccat_workflow_manager.api import breakers, bulk, pipelines, products, runs, service, step_runs
from ccat_workflow_manager.api import openapi as documented
from ccat_workflow_manager.api.dependencies import PREFIX, known_parameters


def include_api(app: FastAPI) -> None:
    """All calls under /api/v1, and the two that tell whether the service is well."""
    checked = [Depends(known_parameters)]
    for module in (runs, bulk, step_runs, pipelines, products, breakers, service):
        app.include_router(module.router, prefix=PREFIX, dependencies=checked, responses=documented.PROBLEMS)
    app.include_router(service.health, dependencies=checked)
