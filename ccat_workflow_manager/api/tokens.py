"""API tokens: makes, lists and revokes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field, StrictStr
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import PREFIX, Body, Ctx, Who
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.paging import DEFAULT_LIMIT, Cursor, Limit, decode, json_response, page, uuid_key
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.db.tokens import TokenStore
from ccat_workflow_manager.definition.messages import refuse_if
from ccat_workflow_manager.identity import Role
from ccat_workflow_manager.services.run_request import Moment, Project, storable

router = api_router(prefix="/tokens", tags=["tokens"])


def _in_the_future(at: datetime) -> datetime:
    refuse_if(None if at > datetime.now(UTC) else "must be in the future")
    return at


def _printable(name: str) -> str:
    refuse_if(None if name.isprintable() else "must have printable characters only")
    return storable(name)


class TokenRequest(Shape):
    name: Annotated[StrictStr, Field(min_length=1, max_length=100), AfterValidator(_printable)]
    role: Role
    projects: Annotated[list[Project], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Default: all."
    )
    expires_at: Annotated[Moment, AfterValidator(_in_the_future)] | None = Field(
        default=None, description="Default: never."
    )


class Token(Shape):
    id: UUID
    prefix: str = Field(description="The part of the token that is no secret.")
    name: str
    role: Role
    projects: list[str] | None = Field(description="null: all.")
    created_by: str
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None = Field(description="To the minute.")


class NewToken(Token):
    token: str = Field(description="What `Authorization: Bearer` takes. It is shown only now.")


class TokenPage(Page):
    items: list[Token]


@router.post(
    "",
    status_code=201,
    response_model=NewToken,
    openapi_extra=openapi.body(TokenRequest, openapi.TOKEN_EXAMPLES),
)
def create_token(context: Ctx, who: Who, body: Body) -> Response:
    """Make a token. Its rights are at most those of the caller."""
    asked = body.parse(TokenRequest)
    projects = None if asked.projects is None else frozenset(asked.projects)
    made = context.tokens.create(asked.name, asked.role, by=who, projects=projects, expires_at=asked.expires_at)
    text = f'{made.json[:-1]},"token":{json.dumps(made.secret)}}}'
    token_id = json.loads(made.json)["id"]
    return json_response(text, 201, {"Location": f"{PREFIX}/tokens/{token_id}", "Cache-Control": "no-store"})


@router.get("", response_model=TokenPage)
def list_tokens(context: Ctx, who: Who, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Tokens without their secrets, the newest first; also revoked ones."""
    after = decode("tokens", cursor, uuid_key)
    with context.database.read() as unit:
        found = TokenStore(unit).page(after, limit + 1, who.projects)
    return page("tokens", found, limit)


@router.delete("/{token_id}", response_model=Token)
def revoke_token(context: Ctx, who: Who, token_id: UUID) -> Response:
    """Revoke a token: every manager refuses it within a second, and the sessions that it began end."""
    return json_response(context.tokens.revoke(token_id, by=who))
