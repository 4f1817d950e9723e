"""`ccat-wm overrides`: what is changed until a certain time, through the REST API."""

from __future__ import annotations

from typing import Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson, OfProject

overrides = typer.Typer(
    name="overrides", invoke_without_command=True, help="Changes that end by themselves: list them, end one now."
)


@overrides.callback()
def list_(context: typer.Context, project: OfProject = None, as_json: AsJson = False) -> None:
    """List limits, priorities, released breakers and other changes that last until a certain time.

    They are made with --until: `ccat-wm project set`, `pipeline set`, `breakers release`, `run priority`, `run retry`.

    Example:  ccat-wm overrides
    """
    if context.invoked_subcommand is not None:
        return
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    with connect() as client:
        found = list(client.items("/overrides", None, project=project))
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("Nothing is changed until a certain time.", err=True)
        return
    rows = [(one["id"], when(one["until"]), one["text"]) for one in found]
    console().print(table(("id", "until (UTC)", "change"), rows, right=("id",)))


@overrides.command()
def end(
    override_id: Annotated[int, typer.Argument(metavar="ID", help="Id of an override (`ccat-wm overrides`).")],
    as_json: AsJson = False,
) -> None:
    """End an override now: what it changed is as before.

    Example:  ccat-wm overrides end 7

    Exit codes:  0 ended,  2 no such override, or no right,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.terminal_text import plain

    with connect() as client:
        found = client.delete(f"/overrides/{override_id}")
    if as_json:
        print_json(found)
    else:
        typer.echo(plain(f"ended: {found['text']}"))
