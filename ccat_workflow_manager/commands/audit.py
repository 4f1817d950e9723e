"""`ccat-wm audit`: who changed what, through the REST API."""

from __future__ import annotations

from typing import Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson, OfProject


def audit(
    about: Annotated[
        str | None, typer.Option("--object", metavar="PLACE", help="Such as runs/ID, backends/NAME or service.")
    ] = None,
    actor: Annotated[str | None, typer.Option(metavar="NAME", help="Changes of this token, person or user.")] = None,
    action: Annotated[str | None, typer.Option(metavar="NAME", help="Such as create_run or pause_backend.")] = None,
    project: OfProject = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Since: 24h, 7d, or RFC 3339.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before this time, written like --since.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of changes.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List who changed what, the newest first.

    Example:  ccat-wm audit --object backends/slurm --since 7d

    Exit codes:  0 listed,  2 bad input or no right,  3 no service.
    """
    from ccat_workflow_manager.commands.arguments import moment_before_now
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, pairs_text, print_json, table, when

    filters = {"object": about, "actor": actor, "action": action, "project": project}
    times = {name: moment_before_now(given) for name, given in (("since", since), ("until", until)) if given}
    with connect() as client:
        found = list(client.items("/audit", limit, **filters, **times))
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("No changes match.", err=True)
    else:
        rows = [
            (when(one["at"]), one["actor"], one["action"], one["object"], pairs_text(one["after"] or {}))
            for one in found
        ]
        console().print(table(("at (UTC)", "who", "action", "object", "after"), rows, whole=("at (UTC)",)))
