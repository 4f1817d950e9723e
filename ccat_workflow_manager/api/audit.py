"""The audit: who changed what."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.routing import iter_route_contexts
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api.dependencies import Ctx, Who
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.paging import DEFAULT_LIMIT, Cursor, Limit, ProjectName, decode, number_key, page
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.db.queries.audit import audit_page
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.services.run_request import Moment, Text

router = api_router(prefix="/audit", tags=["audit"])

_WITHOUT_ROUTE = frozenset({"end_override", "prune", "resume", "revoke_token", "run.deleted", "set_run_labels"})
"""Actions of commands on the host, of what ends by time, of the dashboard alone, and the end of a deletion."""


class AuditItem(Shape):
    """One change. Its row is written in the transaction of the change and never changes."""

    id: int
    at: Time
    actor: str = Field(description="The name of the token, person or user.")
    identity: str = Field(description="What never changes about it, such as the id of the token.")
    address: str = Field(description="Where the request came from; empty for a command on the host.")
    action: str = Field(description="Such as `create_run`.")
    object: str = Field(description="Such as `runs/ID` or `pipelines/NAME`.")
    project: str | None
    before: Any = Field(description="The small part that changed, if it is known.")
    after: Any
    request_id: str = Field(description="The header `X-Request-ID` of the request and its response.")


class AuditPage(Page):
    items: list[AuditItem]


class _Period(Shape):
    since: Moment | None = None
    until: Moment | None = None


@router.get("", response_model=AuditPage)
def list_audit(
    context: Ctx,
    request: Request,
    who: Who,
    actor: Text | None = None,
    identity: Text | None = None,
    action: Text | None = None,
    on: Annotated[Text | None, Query(alias="object", description="Such as `runs/ID`.")] = None,
    project: ProjectName = None,
    request_id: Text | None = None,
    since: Annotated[str | None, Query(description="RFC 3339.")] = None,
    until: Annotated[str | None, Query(description="RFC 3339.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Changes that people and programs asked for, the newest first."""
    period = validated(_Period, {"since": since, "until": until})
    after = decode("audit", cursor, number_key)
    with context.database.read() as unit:
        found = audit_page(
            unit,
            after,
            limit + 1,
            projects=who.projects,
            since=period.since,
            until=period.until,
            actor=actor,
            identity=identity,
            action=action,
            object=on,
            project=project,
            request_id=request_id,
        )
    if not found and action is not None and cursor is None:
        require_known_action(action, request)
    return page("audit", found, limit)


def require_known_action(action: str, request: Request) -> None:
    """Raises Invalid for what no change is called. An older release may have had others, whose changes are found."""
    changing = (each for each in iter_route_contexts(request.app.routes) if set(each.methods or ()) - {"GET", "HEAD"})
    known = _WITHOUT_ROUTE | {str(getattr(each.original_route, "name", "")) for each in changing}
    if action not in known:
        close = next(iter(get_close_matches(action, known, 1)), None)
        hint = f"did you mean {close}?" if close else "they are called such as create_run or pause_backend"
        raise Invalid(faults=[Fault("action", f"{action[:100]!r} is no action; {hint}")])
