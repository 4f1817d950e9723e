"""What each route needs: the one declaration of rights.

`api.route.declare` refuses an application with a route that is missing here. An identity that is limited to projects
gets 404 for what belongs to others, whether it exists or not; 403 says that its role is too low.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from fastapi import Request

from ccat_workflow_manager.api.authentication import is_forged, who
from ccat_workflow_manager.api.dependencies import PREFIX
from ccat_workflow_manager.api.forwarded import address_of
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.queries import owners
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.errors import Forbidden, NotFound
from ccat_workflow_manager.identity import Role
from ccat_workflow_manager.threads import in_thread


class Thing(NamedTuple):
    """What a route is about, and how its project is found."""

    parameter: str
    kind: str
    """As messages name it."""
    collection: str
    """Its place in addresses and in the audit."""
    project: Callable[[UnitOfWork, UUID | str], str | None]


RUN = Thing("run_id", "run", "runs", owners.project_of_run)
TASK = RUN._replace(kind="task")
STEP_RUN = Thing("step_run_id", "step run", "step-runs", owners.project_of_step_run)
PRODUCT = Thing("product_id", "product", "products", owners.project_of_product)
PIPELINE = Thing("name", "pipeline", "pipelines", owners.project_of_pipeline)
BREAKER = Thing("breaker_id", "breaker", "breakers", owners.project_of_breaker)
OVERRIDE = Thing("override_id", "override", "overrides", owners.project_of_override)
PROJECT = Thing("project", "project", "projects", lambda unit, key: str(key))
WEBHOOK = Thing("webhook_id", "webhook", "webhooks", owners.project_of_webhook)
FILTERED = None
"""The handler shows and changes only what belongs to the projects of the caller."""
WHOLE_SERVICE = "whole service"
"""It concerns all projects: an identity that is limited to some has no right."""


class Right(NamedTuple):
    """The least role that a route needs, and what it is about."""

    role: Role | None
    """None: anyone, also without a token."""
    about: Thing | str | None = FILTERED


_VIEWER, _SUBMITTER, _OPERATOR, _ADMIN = Role
_OPEN = Right(None)

RIGHTS: dict[str, Right] = {
    "GET /healthz": _OPEN,
    "GET /readyz": _OPEN,
    "GET /metrics": Right(_VIEWER, WHOLE_SERVICE),
    "GET /login": _OPEN,
    "GET /login/oidc": _OPEN,
    "GET /login/oidc/callback": _OPEN,
    "POST /login": _OPEN,
    "POST /logout": Right(_VIEWER),
    "GET /api/v1/attention": Right(_VIEWER),
    "GET /api/v1/audit": Right(_OPERATOR),
    "GET /api/v1/backends": Right(_VIEWER),
    "POST /api/v1/backends/{name}/pause": Right(_OPERATOR, WHOLE_SERVICE),
    "POST /api/v1/backends/{name}/resume": Right(_OPERATOR, WHOLE_SERVICE),
    "GET /api/v1/breakers": Right(_VIEWER),
    "GET /api/v1/breakers/{breaker_id}/events": Right(_VIEWER, BREAKER),
    "POST /api/v1/breakers/{breaker_id}/release": Right(_OPERATOR, BREAKER),
    "GET /api/v1/dashboard/summary": Right(_VIEWER),
    "GET /api/v1/dashboard/timeseries": Right(_VIEWER),
    "GET /api/v1/dashboard/attention": Right(_VIEWER),
    "GET /api/v1/pipelines/{name}/stats": Right(_VIEWER, PIPELINE),
    "GET /api/v1/dashboard/pipelines/{name}/stats": Right(_VIEWER, PIPELINE),
    "GET /api/v1/events": Right(_VIEWER),
    "GET /api/v1/explain": Right(_VIEWER),
    "GET /api/v1/holds": Right(_VIEWER),
    "GET /api/v1/overrides": Right(_VIEWER),
    "DELETE /api/v1/overrides/{override_id}": Right(_OPERATOR, OVERRIDE),
    "POST /api/v1/service/pause": Right(_OPERATOR, WHOLE_SERVICE),
    "POST /api/v1/service/resume": Right(_OPERATOR, WHOLE_SERVICE),
    "GET /api/v1/pipelines": Right(_VIEWER),
    "POST /api/v1/pipelines": Right(_SUBMITTER),
    "GET /api/v1/pipelines/{name}": Right(_VIEWER, PIPELINE),
    "PUT /api/v1/pipelines/{name}": Right(_SUBMITTER, PIPELINE),
    "PATCH /api/v1/pipelines/{name}": Right(_SUBMITTER, PIPELINE),
    "POST /api/v1/pipelines/{name}/pause": Right(_SUBMITTER, PIPELINE),
    "POST /api/v1/pipelines/{name}/resume": Right(_SUBMITTER, PIPELINE),
    "GET /api/v1/pipelines/{name}/ledger": Right(_VIEWER, PIPELINE),
    "GET /api/v1/pipelines/{name}/versions": Right(_VIEWER, PIPELINE),
    "GET /api/v1/products/{product_id}": Right(_VIEWER, PRODUCT),
    "GET /api/v1/products/{product_id}/content": Right(_VIEWER, PRODUCT),
    "GET /api/v1/products/{product_id}/lineage": Right(_VIEWER, PRODUCT),
    "GET /api/v1/projects": Right(_VIEWER),
    "GET /api/v1/projects/{project}": Right(_VIEWER, PROJECT),
    "PUT /api/v1/projects/{project}": Right(_OPERATOR, PROJECT),
    "PATCH /api/v1/projects/{project}": Right(_OPERATOR, PROJECT),
    "POST /api/v1/projects/{project}/pause": Right(_OPERATOR, PROJECT),
    "POST /api/v1/projects/{project}/resume": Right(_OPERATOR, PROJECT),
    "GET /api/v1/runs": Right(_VIEWER),
    "POST /api/v1/runs": Right(_SUBMITTER),
    "POST /api/v1/runs/bulk": Right(_SUBMITTER),
    "POST /api/v1/runs/cancel": Right(_SUBMITTER),
    "POST /api/v1/runs/replay": Right(_SUBMITTER),
    "POST /api/v1/runs/retry": Right(_SUBMITTER),
    "GET /api/v1/runs/{run_id}": Right(_VIEWER, RUN),
    "GET /api/v1/runs/{run_id}/explain": Right(_VIEWER, RUN),
    "DELETE /api/v1/runs/{run_id}": Right(_SUBMITTER, RUN),
    "POST /api/v1/runs/{run_id}/cancel": Right(_SUBMITTER, RUN),
    "POST /api/v1/runs/{run_id}/pause": Right(_SUBMITTER, RUN),
    "POST /api/v1/runs/{run_id}/priority": Right(_SUBMITTER, RUN),
    "POST /api/v1/runs/{run_id}/resume": Right(_SUBMITTER, RUN),
    "POST /api/v1/runs/{run_id}/retry": Right(_SUBMITTER, RUN),
    "GET /api/v1/runs/{run_id}/products": Right(_VIEWER, RUN),
    "GET /api/v1/runs/{run_id}/step-runs": Right(_VIEWER, RUN),
    "GET /api/v1/step-runs/{step_run_id}": Right(_VIEWER, STEP_RUN),
    "GET /api/v1/step-runs/{step_run_id}/attempts": Right(_VIEWER, STEP_RUN),
    "GET /api/v1/step-runs/{step_run_id}/explain": Right(_VIEWER, STEP_RUN),
    "GET /api/v1/step-runs/{step_run_id}/events": Right(_VIEWER, STEP_RUN),
    "GET /api/v1/step-runs/{step_run_id}/log": Right(_VIEWER, STEP_RUN),
    "GET /api/v1/step-runs/{step_run_id}/products": Right(_VIEWER, STEP_RUN),
    "GET /api/v1/step-runs/{step_run_id}/why-not-reused": Right(_VIEWER, STEP_RUN),
    "POST /api/v1/step-runs/{step_run_id}/cancel": Right(_SUBMITTER, STEP_RUN),
    "POST /api/v1/step-runs/{step_run_id}/outcome": Right(_SUBMITTER, STEP_RUN),
    "POST /api/v1/step-runs/{step_run_id}/retry": Right(_SUBMITTER, STEP_RUN),
    "GET /api/v1/tokens": Right(_ADMIN),
    "POST /api/v1/tokens": Right(_ADMIN),
    "DELETE /api/v1/tokens/{token_id}": Right(_ADMIN),
    "GET /api/v1/webhooks": Right(_OPERATOR),
    "POST /api/v1/webhooks": Right(_OPERATOR),
    "GET /api/v1/webhooks/{webhook_id}": Right(_OPERATOR, WEBHOOK),
    "DELETE /api/v1/webhooks/{webhook_id}": Right(_OPERATOR, WEBHOOK),
    "GET /api/v1/webhooks/{webhook_id}/deliveries": Right(_OPERATOR, WEBHOOK),
    "POST /api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": Right(_OPERATOR, WEBHOOK),
    "POST /api/v1/webhooks/{webhook_id}/redeliver": Right(_OPERATOR, WEBHOOK),
    "POST /api/v1/webhooks/{webhook_id}/test": Right(_OPERATOR, WEBHOOK),
    "GET /api/v1/workers": Right(_VIEWER),
    "POST /api/v1/workers/{worker}/drain": Right(_OPERATOR, WHOLE_SERVICE),
    "POST /api/v1/workers/{worker}/resume": Right(_OPERATOR, WHOLE_SERVICE),
    "GET /ga4gh/tes/v1/service-info": Right(_VIEWER),
    "GET /ga4gh/tes/v1/tasks": Right(_VIEWER),
    "POST /ga4gh/tes/v1/tasks": Right(_SUBMITTER),
    "GET /ga4gh/tes/v1/tasks/{run_id}": Right(_VIEWER, TASK),
    "POST /ga4gh/tes/v1/tasks/{run_id}:cancel": Right(_SUBMITTER, TASK),
    "GET /v1/service-info": Right(_VIEWER),
    "GET /v1/tasks": Right(_VIEWER),
    "POST /v1/tasks": Right(_SUBMITTER),
    "GET /v1/tasks/{run_id}": Right(_VIEWER, TASK),
    "POST /v1/tasks/{run_id}:cancel": Right(_SUBMITTER, TASK),
    # Pages.
    "GET /": Right(_VIEWER),
    "GET /runs": Right(_VIEWER),
    "GET /runs/{run_id}": Right(_VIEWER, RUN),
    "GET /runs/{run_id}/compare": Right(_VIEWER, RUN),
    "GET /runs/{run_id}/steps/{name}": Right(_VIEWER, RUN),
    "GET /runs/{run_id}/steps/{name}/{key}": Right(_VIEWER, RUN),
    "GET /step-runs/{step_run_id}": Right(_VIEWER, STEP_RUN),
    "GET /act/breaker": Right(_VIEWER),
    "GET /act/{verb}": Right(_VIEWER),
    "GET /ui/overview": Right(_VIEWER),
    "GET /ui/runs": Right(_VIEWER),
    "GET /ui/runs/{run_id}": Right(_VIEWER, RUN),
    "GET /ui/runs/{run_id}/keys": Right(_VIEWER, RUN),
    "GET /ui/step-runs/{step_run_id}": Right(_VIEWER, STEP_RUN),
    "GET /ui/step-runs/{step_run_id}/log": Right(_VIEWER, STEP_RUN),
    "GET /ui/step-runs/{step_run_id}/log/search": Right(_VIEWER, STEP_RUN),
    "GET /ui/rail": Right(_VIEWER),
    "POST /act/step-run/{verb}": Right(_SUBMITTER),
    "POST /act/{verb}": Right(_SUBMITTER),
    "POST /act": Right(_VIEWER),
    "POST /act/breaker": Right(_OPERATOR),
    "GET /projects": Right(_VIEWER),
    "GET /projects/{project}": Right(_VIEWER, PROJECT),
    "GET /ui/projects/{project}": Right(_VIEWER, PROJECT),
    "GET /projects/{project}/limits": Right(_VIEWER, PROJECT),
    "POST /projects/{project}/limits": Right(_OPERATOR, PROJECT),
    "POST /overrides/{override_id}/end": Right(_OPERATOR, OVERRIDE),
    "GET /pipelines": Right(_VIEWER),
    "GET /pipelines/{name}": Right(_VIEWER, PIPELINE),
    "GET /products": Right(_VIEWER),
    "GET /products/{product_id}": Right(_VIEWER, PRODUCT),
    "GET /ui/products/{product_id}/picture": Right(_VIEWER, PRODUCT),
    "GET /products/{product_id}/tree/{path}": Right(_VIEWER, PRODUCT),
    "GET /backends": Right(_VIEWER),
    "GET /workers": Right(_VIEWER),
    "POST /workers/{worker}/drain": Right(_OPERATOR, WHOLE_SERVICE),
    "POST /workers/{worker}/resume": Right(_OPERATOR, WHOLE_SERVICE),
    "GET /events": Right(_VIEWER),
    "GET /go": Right(_VIEWER),
    "GET /ui/backends": Right(_VIEWER),
    "GET /ui/workers": Right(_VIEWER),
    "GET /ui/events": Right(_VIEWER),
    "POST /ui/pipelines/{name}/check": Right(_SUBMITTER, PIPELINE),
    "GET /pipelines/{name}/start": Right(_VIEWER, PIPELINE),
    "POST /pipelines/{name}/start": Right(_SUBMITTER, PIPELINE),
    "POST /pipelines/{name}/switch": Right(_SUBMITTER, PIPELINE),
    "GET /pipelines/{name}/hold": Right(_VIEWER, PIPELINE),
    "GET /projects/{project}/hold": Right(_VIEWER, PROJECT),
    "GET /backends/{name}/hold": Right(_VIEWER),
    "GET /service/hold": Right(_VIEWER),
    "POST /pipelines/{name}/pause": Right(_SUBMITTER, PIPELINE),
    "POST /pipelines/{name}/resume": Right(_SUBMITTER, PIPELINE),
    "POST /projects/{project}/pause": Right(_OPERATOR, PROJECT),
    "POST /projects/{project}/resume": Right(_OPERATOR, PROJECT),
    "POST /backends/{name}/pause": Right(_OPERATOR, WHOLE_SERVICE),
    "POST /backends/{name}/resume": Right(_OPERATOR, WHOLE_SERVICE),
    "POST /service/pause": Right(_OPERATOR, WHOLE_SERVICE),
    "POST /service/resume": Right(_OPERATOR, WHOLE_SERVICE),
    "GET /ui/pipelines/{name}/head": Right(_VIEWER, PIPELINE),
    "GET /audit": Right(_OPERATOR),
    "GET /tokens": Right(_ADMIN),
    "POST /tokens": Right(_ADMIN),
    "POST /tokens/{token_id}/revoke": Right(_ADMIN),
    "GET /ui/live": Right(_VIEWER),
}


async def authorize(request: Request, right: Right, action: str) -> None:
    """Refuse what the caller has no right to. Names the change for the audit."""
    if right.role is None:
        return
    identity, about = who(request), right.about
    project = None
    thing = about if isinstance(about, Thing) else None
    key = None if thing is None else _key(request, thing)
    changes = request.method != "GET"
    if thing is not None and key is not None and (changes or identity.projects is not None):
        context: Context = request.app.state.context
        project = await in_thread(_project, context, thing, key)
        if project is not None and not identity.sees(project):
            raise NotFound(f"there is no {thing.kind} {key}")
    if not identity.role.includes(right.role):
        raise Forbidden(f"this needs the role {right.role}; {identity.name} has {identity.role}")
    if about == WHOLE_SERVICE and identity.projects is not None:
        raise Forbidden(f"this concerns all projects; {identity.name} is limited to some")
    if changes and is_forged(request):
        raise Forbidden("a change with a cookie needs the header X-CSRF-Token, or a page of this site")
    if changes:
        audit.attribute(
            audit.Change(
                identity,
                action,
                request.url.path.removeprefix(PREFIX + "/") if thing is None else f"{thing.collection}/{key}",
                address_of(request),
                request.state.request_id,
                project or None,
            )
        )


def _key(request: Request, thing: Thing) -> UUID | str | None:
    """The name or id in the path. None: it is malformed, which the handler reports."""
    text = str(request.path_params[thing.parameter])
    if thing in (PIPELINE, PROJECT, OVERRIDE):
        return text
    try:
        return UUID(text)
    except ValueError:
        return None


def _project(context: Context, thing: Thing, key: UUID | str) -> str | None:
    with context.database.read() as unit:
        return thing.project(unit, key)
