"""Metrics for Prometheus: the page with all numbers of this manager."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Scope

from ccat_workflow_manager import metrics
from ccat_workflow_manager.api.dependencies import Ctx
from ccat_workflow_manager.api.route import api_router

router = api_router(tags=["service"])

_UNMATCHED = "unmatched"


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_metrics(context: Ctx) -> Response:
    """The metrics of this manager in the text format of Prometheus."""
    return Response(
        metrics.exposition(context.metrics, context.doorbell_metrics), headers={"Content-Type": metrics.CONTENT_TYPE}
    )


def route_of(scope: Scope) -> str:
    """The template of the route that answers. FastAPI gives it without the prefix of its router."""
    template: str = getattr(scope.get("route"), "path", "")
    if not template:
        return _UNMATCHED
    if ":path}" in template:
        return template
    parts = scope["path"].split("/")
    return "/".join(parts[: len(parts) - template.count("/")]) + template
