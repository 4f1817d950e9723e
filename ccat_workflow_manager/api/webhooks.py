"""Webhooks: events that are sent to a URL."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query
from pydantic import AfterValidator, Field, ValidationInfo
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Body, Ctx, Who
from ccat_workflow_manager.api.events import unknown_type
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    ProjectName,
    decode,
    json_response,
    page,
    read_one,
    uuid_key,
)
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db import webhooks as queries
from ccat_workflow_manager.db.queries.runs import existing_runs
from ccat_workflow_manager.definition.messages import refuse_if
from ccat_workflow_manager.definition.spec import PIPELINE_NAME
from ccat_workflow_manager.errors import Fault, Invalid, NotFound
from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.lifecycle.event_types import events_of
from ccat_workflow_manager.services.run_request import Project
from ccat_workflow_manager.services.webhook_target import url_problem

router = api_router(prefix="/webhooks", tags=["webhooks"])

_EXAMPLES = {
    "ends of runs": {
        "value": {
            "url": "https://example.org/hook",
            "types": ["ccat.wm.run.finished"],
            "filter": {"pipeline": "chai-map"},
        }
    }
}


class WebhookFilter(Shape):
    pipeline: str | None = Field(
        default=None,
        pattern=PIPELINE_NAME,
        description="Only events of this pipeline, which may be registered later.",
    )
    run: UUID | None = Field(default=None, description="Only events of this run.")


def _url(url: str, info: ValidationInfo) -> str:
    refuse_if(url_problem(url, private_allowed=bool(info.context and info.context["private_allowed"])))
    return url


def _type(name: str) -> str:
    refuse_if(unknown_type(name) if events_of([name])[1] else None)
    return name


class NewWebhook(Shape):
    url: Annotated[str, AfterValidator(_url)] = Field(description="http:// or https://, at a public address.")
    types: list[Annotated[str, AfterValidator(_type)]] = Field(
        default=[], max_length=50, description="Types of events; `ccat.wm.run.*` means all of runs. Empty: all."
    )
    filter: WebhookFilter = WebhookFilter()
    project: Project | None = Field(default=None, description="Only events of this project.")


class ShownFilter(Shape):
    pipeline: str | None
    run: UUID | None


class Webhook(Shape):
    id: UUID
    url: str
    types: list[str]
    project: str | None
    filter: ShownFilter
    created_by: str
    created_at: Time
    disabled_at: Time | None
    disabled_reason: str | None = Field(description="Why nothing more is sent: the target answered 410.")


class CreatedWebhook(Webhook):
    secret: str = Field(description="The key of the signatures. It is shown only here.")


class Delivery(Shape):
    id: UUID = Field(description="The header `webhook-id`, the same in every attempt.")
    webhook_id: UUID
    event: str = Field(description="The id of the event.")
    type: str
    status: Literal["PENDING", "DELIVERED", "DEAD"] = Field(description="DEAD: given up; it can be sent again.")
    attempts: int
    http_status: int | None = Field(description="The last answer of the target.")
    problem: str | None = Field(description="Why the last attempt failed.")
    created_at: Time
    next_at: Time
    finished_at: Time | None


class Redelivered(Shape):
    deliveries: int = Field(description="How many are sent again.")


class WebhookPage(Page):
    items: list[Webhook]


class DeliveryPage(Page):
    items: list[Delivery]


def _webhook(context: Context, webhook_id: UUID) -> str:
    return read_one(context, "webhook", queries.webhook_detail, webhook_id)


def _require_run(context: Context, who: Identity, run_id: UUID | None) -> None:
    """Raises NotFound for a run that there is not: nothing would ever be sent. A pipeline may be registered later."""
    if run_id is None:
        return
    with context.database.read() as unit:
        if not existing_runs(unit, [run_id], who.projects):
            raise NotFound(faults=[Fault("filter.run", f"there is no run {run_id}")])


@router.post("", status_code=201, response_model=CreatedWebhook, openapi_extra=openapi.body(NewWebhook, _EXAMPLES))
def create_webhook(context: Ctx, who: Who, body: Body) -> Response:
    """Have events from now on sent to a URL, signed with a secret that only this response shows."""
    new = body.parse(NewWebhook, private_allowed=context.settings.webhook_private_targets)
    if who.projects is not None and new.project not in who.projects:
        raise Invalid(faults=[Fault("project", f"must be one of {', '.join(sorted(who.projects))}")])
    _require_run(context, who, new.filter.run)
    webhook_id, secret = context.webhooks.create(
        new.url,
        new.types,
        project=new.project,
        pipeline=new.filter.pipeline,
        run_id=new.filter.run,
        actor=who.name,
    )
    return json_response(f'{_webhook(context, webhook_id)[:-1]},"secret":"{secret}"}}', 201)


@router.get("", response_model=WebhookPage)
def list_webhooks(
    context: Ctx, who: Who, project: ProjectName = None, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """The webhooks, oldest first, without their secrets."""
    after = decode("webhooks", cursor, uuid_key)
    with context.database.read() as unit:
        found = queries.webhooks_page(unit, after, limit + 1, who.within(project))
    return page("webhooks", found, limit)


@router.get("/{webhook_id}", response_model=Webhook)
def get_webhook(context: Ctx, webhook_id: UUID) -> Response:
    """A webhook, without its secret."""
    return json_response(_webhook(context, webhook_id))


@router.delete("/{webhook_id}", response_model=Webhook)
def delete_webhook(context: Ctx, webhook_id: UUID) -> Response:
    """Delete a webhook with its deliveries. The response is what it was."""
    text = _webhook(context, webhook_id)
    context.webhooks.delete(webhook_id)
    return json_response(text)


@router.get("/{webhook_id}/deliveries", response_model=DeliveryPage)
def list_deliveries(
    context: Ctx,
    webhook_id: UUID,
    status: Annotated[Literal["PENDING", "DELIVERED", "DEAD"] | None, Query(description="Only these.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """The deliveries of a webhook, the newest first. Finished ones are kept for a week."""
    after = decode("deliveries", cursor, uuid_key)
    _webhook(context, webhook_id)
    with context.database.read() as unit:
        found = queries.deliveries_page(unit, webhook_id, status, after, limit + 1)
    return page("deliveries", found, limit)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, response_model=Delivery)
def redeliver(context: Ctx, webhook_id: UUID, delivery_id: UUID) -> Response:
    """Send a delivery again, whatever has become of it."""
    _webhook(context, webhook_id)
    context.webhooks.redeliver(webhook_id, delivery_id)
    return json_response(read_one(context, "delivery", queries.delivery_detail, delivery_id), 202)


@router.post("/{webhook_id}/test", status_code=202, response_model=Delivery)
def test_webhook(context: Ctx, who: Who, webhook_id: UUID) -> Response:
    """Send the target a message of the type `ccat.wm.webhook.test`, once, to see whether it answers."""
    _webhook(context, webhook_id)
    delivery_id = context.webhooks.send_test(webhook_id, actor=who.name)
    return json_response(read_one(context, "delivery", queries.delivery_detail, delivery_id), 202)


@router.post("/{webhook_id}/redeliver", status_code=202, response_model=Redelivered)
def redeliver_dead(context: Ctx, webhook_id: UUID) -> Response:
    """Send again all deliveries that were given up."""
    _webhook(context, webhook_id)
    return json_response(f'{{"deliveries":{context.webhooks.redeliver(webhook_id)}}}', 202)
