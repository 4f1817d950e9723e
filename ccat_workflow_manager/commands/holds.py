"""`ccat-wm pause`, `resume` and `holds`: what starts nothing now, because a person wants it so."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import AsJson, OfProject, Until, Why, end_of
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.lifecycle.holds import Kind

KindArgument = Annotated[Kind, typer.Argument(metavar="KIND", help="pipeline, project, backend or service.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Its name; none for the service.")]


def pause(
    kind: KindArgument,
    name: NameArgument = "",
    why: Why = "",
    until: Until = "",
    drain: Annotated[
        bool, typer.Option("--drain", help="Leave jobs in the queue of a scheduler where they are.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start no step run of a pipeline, a project, a backend or the whole service. What runs already goes on.

    Jobs that still wait in the queue of a scheduler come back, but for --drain.

    Example:  ccat-wm pause pipeline nightly --why "new calibration" --until +2h

    Exit codes:  0 paused,  2 bad input or no right,  3 no service.
    """
    if not why:
        raise WrongUsage("give the reason: --why TEXT")
    body = {"why": why, "mode": "drain" if drain else "pause"}
    if (end := end_of(until)) is not None:
        body["until"] = end
    _call(kind, name, "pause", body, as_json)


def resume(kind: KindArgument, name: NameArgument = "", as_json: AsJson = False) -> None:
    """End a pause or a drain: what it kept back can start.

    Example:  ccat-wm resume pipeline nightly

    Exit codes:  0 resumed,  2 not paused, or no right,  3 no service.
    """
    _call(kind, name, "resume", None, as_json)


def holds(project: OfProject = None, as_json: AsJson = False) -> None:
    """List what is paused or drained: by whom, why, since when and until when.

    With --project also what concerns all projects.

    Example:  ccat-wm holds
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    with connect() as client:
        found = client.get("/holds", project=project)["items"]
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("Nothing is paused.", err=True)
        return
    rows = [
        (one["kind"], one["name"], one["mode"], one["actor"], when(one["since"]), when(one["until"]), one["why"])
        for one in found
    ]
    console().print(table(("kind", "name", "mode", "by", "since (UTC)", "until (UTC)", "why"), rows))


def _call(kind: Kind, name: str, verb: str, body: dict[str, Any] | None, as_json: bool) -> None:
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.terminal_text import plain

    if bool(name) is (kind is Kind.SERVICE):
        raise WrongUsage("the service has no name" if name else f"give the name of the {kind}")
    path = f"/service/{verb}" if kind is Kind.SERVICE else f"/{kind}s/{quote(name, safe='')}/{verb}"
    with connect() as client:
        found = client.post(path, body)
    if as_json:
        print_json(found)
    elif verb == "resume":
        typer.echo(plain(f"the {kind} {name}".rstrip() + " goes on"))
    else:
        typer.echo(plain(found["text"]))
