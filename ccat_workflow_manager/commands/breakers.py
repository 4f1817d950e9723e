"""`ccat-wm breakers`: what circuit breakers hold back, through the REST API."""

from __future__ import annotations

from typing import Annotated

import typer

breakers = typer.Typer(
    invoke_without_command=True, help="Circuit breakers: what is held back because its like has failed; let it go."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a breaker (`ccat-wm breakers`).")]


@breakers.callback()
def list_(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also those that only count so far.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the open circuit breakers: which step with which image is held back, why, and how much.

    Example:  ccat-wm breakers
    """
    if context.invoked_subcommand is not None:
        return
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    with connect() as client:
        found = list(client.items("/breakers", None, counting=everything or None))
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("Nothing is held back.", err=True)
        return
    rows = [
        (one["id"], one["state"], f"{one['pipeline']}/{one['step']}", one["image"], one["held_back"],
         when(one["opened_at"]), when(one["probe_at"]), one["reason_text"] or f"{one['failures']} failures so far")
        for one in found
    ]  # fmt: skip
    columns = ("breaker", "state", "step", "image", "held back", "opened (UTC)", "next try (UTC)", "why")
    console().print(table(columns, rows, right=("held back",)))


@breakers.command()
def release(breaker_id: Id, as_json: AsJson = False) -> None:
    """Let go what a breaker holds back; it begins to count anew.

    Example:  ccat-wm breakers release 0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c

    Exit codes:  0 released,  2 no such breaker,  3 no service.
    """
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import plain, print_json

    with connect() as client:
        found = client.post(f"/breakers/{quote(breaker_id, safe='')}/release")
    if as_json:
        print_json(found)
    else:
        step = plain(f"{found['pipeline']}/{found['step']}")
        typer.echo(f"{found['id']} released: {found['held_back']} step runs of {step} may go on")


@breakers.command()
def events(breaker_id: Id, as_json: AsJson = False) -> None:
    """Show what happened to a breaker, also to one that has closed.

    Example:  ccat-wm breakers events 0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c
    """
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    with connect() as client:
        found = list(client.items(f"/breakers/{quote(breaker_id, safe='')}/events", None))
    if as_json:
        print_json(found)
        return
    rows = [(when(one["at"]), one["event"], one["actor"], one["text"]) for one in found]
    console().print(table(("at (UTC)", "event", "by", "what"), rows))
