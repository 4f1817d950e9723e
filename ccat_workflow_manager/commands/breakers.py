"""`ccat-wm breakers`: circuit breakers, through the REST API."""

from __future__ import annotations

from typing import Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson, EndsAt, OfProject, Why, terms

breakers = typer.Typer(
    name="breakers", invoke_without_command=True, help="Circuit breakers: list and release what they hold back."
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a breaker (`ccat-wm breakers`).")]


@breakers.callback()
def list_(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Include breakers that only count failures.")] = False,
    project: OfProject = None,
    as_json: AsJson = False,
) -> None:
    """List the open circuit breakers: the step and image that each holds back, how many step runs, and why.

    Example:  ccat-wm breakers
    """
    if context.invoked_subcommand is not None:
        return
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    with connect() as client:
        found = list(client.items("/breakers", None, counting=everything or None, project=project))
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
    columns = ("breaker", "state", "step", "image", "held back", "opened (UTC)", "next try (UTC)", "reason")
    console().print(table(columns, rows, right=("held back",)))


@breakers.command()
def release(breaker_id: Id, why: Why = "", until: EndsAt = "", as_json: AsJson = False) -> None:
    """Close a breaker: the step runs that it holds back can start, and its count begins again.

    With --until, failures do not count until then, so that it does not open again.

    Example:  ccat-wm breakers release 0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c

    Exit codes:  0 released,  2 no such breaker,  3 no service.
    """
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.terminal_text import plain

    with connect() as client:
        found = client.post(f"/breakers/{quote(breaker_id, safe='')}/release", terms(why, until) or None)
    if as_json:
        print_json(found)
    else:
        step = plain(f"{found['pipeline']}/{found['step']}")
        typer.echo(f"{found['id']} released: {found['held_back']} step runs of {step} can start")


@breakers.command()
def events(breaker_id: Id, as_json: AsJson = False) -> None:
    """Show the events of a breaker, also of one that no longer exists.

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
    console().print(table(("at (UTC)", "event", "by", "text"), rows))
