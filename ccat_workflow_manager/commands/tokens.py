"""`ccat-wm token`: API tokens, on the database of this host or through the REST API."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import AsJson, after_now
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.identity import Role, user_of

if TYPE_CHECKING:
    from ccat_workflow_manager.commands.client import Client
    from ccat_workflow_manager.db.session import Database

token = typer.Typer(
    name="token",
    no_args_is_help=True,
    help="API tokens: through the API that CCAT_WM_URL or CCAT_WM_TOKEN names, else on the database of the settings.",
)


@token.command()
def create(
    role: Annotated[
        Role, typer.Option(metavar="ROLE", help=f"One of {', '.join(Role)}; each has all rights of those before it.")
    ],
    name: Annotated[str, typer.Option(help="What the token is for; the audit shows it. Default: the role.")] = "",
    project: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Limit it to a project. May be repeated. Default: all.")
    ] = None,
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="Such as 90d, or 2027-01-31T12:00:00Z. Default: never.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. It is shown only now.

    Example:  ccat-wm token create --role submitter --project night --expires 90d

    Exit codes:  0 made,  2 bad input or a name that is taken,  3 no service.
    """
    from ccat_workflow_manager.commands.output import print_json

    asked = {"name": name or str(role), "role": str(role), "projects": project or None}
    asked["expires_at"] = after_now(expires) if expires else None
    with _tokens() as tokens:
        made = tokens.create(asked)
    if as_json:
        print_json(made)
        return
    typer.echo(made["token"])
    of = ", ".join(made["projects"]) if made["projects"] else "all projects"
    typer.echo(f"This is shown only now. {made['name']}: {made['role']} of {of}, id {made['id']}", err=True)


@token.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the tokens, the newest first; without --json only those that are not revoked.

    Example:  ccat-wm token list
    """
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    with _tokens() as tokens:
        found = tokens.all()
    if as_json:
        print_json(found)
        return
    rows = [
        (one["name"], one["role"], ", ".join(one["projects"]) if one["projects"] else "all", when(one["expires_at"]),
         when(one["last_used_at"]), one["id"])
        for one in found if one["revoked_at"] is None
    ]  # fmt: skip
    columns = ("name", "role", "projects", "expires (UTC)", "last used (UTC)", "token id")
    console().print(table(columns, rows))


@token.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="ID|NAME", help="Id or name of a token (`ccat-wm token list`).")],
    as_json: AsJson = False,
) -> None:
    """Revoke a token: every manager refuses it within a second, and the sessions that it began end.

    Example:  ccat-wm token revoke nightly

    Exit codes:  0 revoked,  2 no such token,  3 no service.
    """
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.terminal_text import plain

    with _tokens() as tokens:
        meant = [one for one in tokens.all() if which == one["id"] or (which == one["name"] and not one["revoked_at"])]
        if not meant:
            raise NotFound(f"there is no token {which}")
        revoked = tokens.revoke(meant[0]["id"])
    if as_json:
        print_json(revoked)
    else:
        typer.echo(f"{plain(revoked['name'])} revoked")


class _OfApi:
    """Tokens through the REST API."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, asked: dict[str, Any]) -> Any:
        return self._client.post("/tokens", asked)

    def all(self) -> list[Any]:
        return list(self._client.items("/tokens", None))

    def revoke(self, token_id: str) -> Any:
        return self._client.delete(f"/tokens/{token_id}")


class _OfDatabase:
    """Tokens on the database: who has its password is an administrator."""

    def __init__(self, database: Database) -> None:
        from ccat_workflow_manager.services.tokens import Tokens

        self._by = user_of(os.geteuid())
        self._database = database
        self._tokens = Tokens(database)

    def create(self, asked: dict[str, Any]) -> Any:
        from ccat_workflow_manager.api.tokens import TokenRequest
        from ccat_workflow_manager.db.audit import Change, audited
        from ccat_workflow_manager.definition.messages import validated

        new = validated(TokenRequest, asked)
        projects = None if new.projects is None else frozenset(new.projects)
        with audited(Change(self._by, "create_token", "tokens")):
            made = self._tokens.create(new.name, new.role, by=self._by, projects=projects, expires_at=new.expires_at)
        return json.loads(made.json) | {"token": made.secret}

    def all(self) -> list[Any]:
        from ccat_workflow_manager.db.tokens import TokenStore

        with self._database.read() as unit:
            return [json.loads(row.json) for row in TokenStore(unit).page(None, 1_000_000, None)]

    def revoke(self, token_id: str) -> Any:
        from uuid import UUID

        from ccat_workflow_manager.db.audit import Change, audited

        with audited(Change(self._by, "revoke_token", f"tokens/{token_id}")):
            return json.loads(self._tokens.revoke(UUID(token_id), by=self._by))


@contextmanager
def _tokens() -> Iterator[_OfApi | _OfDatabase]:
    from ccat_workflow_manager.commands.client import TOKEN_VARIABLE, URL_VARIABLE, connect

    if os.environ.get(URL_VARIABLE) or os.environ.get(TOKEN_VARIABLE):
        with connect() as client:
            yield _OfApi(client)
        return
    from ccat_workflow_manager.commands.serve import host_database
    from ccat_workflow_manager.db.migrate import require_current

    with host_database() as database:
        require_current(database)
        yield _OfDatabase(database)
