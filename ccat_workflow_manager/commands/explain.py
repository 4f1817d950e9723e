"""`ccat-wm explain`: why step runs and runs do not go on, through the REST API."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import AsJson, OfProject
from ccat_workflow_manager.commands.exit_codes import WrongUsage

if TYPE_CHECKING:
    from ccat_workflow_manager.commands.client import Client

Id = Annotated[
    str | None,
    typer.Argument(metavar="ID", help="Id of a step run, or a run as in `run show`; without it, all by cause."),
]


_MAY_BE_SAID = ("Root", "Recorded", "What frees it")
"""Texts that the lines above these may hold already."""
_NARROW = {"step runs": "count", "cause": "cause", "whose move": "move"}
_WIDE = {**_NARROW, "text": "text", "example": "example"}
_WIDTH = 150
"""How wide a terminal is that shows the columns of `_WIDE`."""


def explain(identity: Id = None, project: OfProject = None, as_json: AsJson = False) -> None:
    """Say why a run or a step run waits, failed or was skipped: the root, whose move it is, and what frees it.

    Example:  ccat-wm explain 0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c

    Exit codes:  0 explained,  2 no such run or step run,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json

    if identity is not None and project is not None:
        raise WrongUsage("--project is for all that waits, without an ID")
    with connect() as client:
        everything = {"group": "cause", "project": project}
        found = client.get("/explain", **everything) if identity is None else _explained(client, identity)
    if as_json:
        print_json(found)
    elif identity is None:
        _print_groups(found["items"])
    else:
        _print_one(found)


def _explained(client: Client, identity: str) -> Any:
    """The explanation of the run with this id, else of the step run."""
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import ApiRefused

    run_id = client.run_id(identity)
    try:
        return client.get(f"/runs/{quote(run_id, safe='')}/explain")
    except ApiRefused as refusal:
        if refusal.status != HTTPStatus.NOT_FOUND or run_id != identity:
            raise
        return client.get(f"/step-runs/{quote(identity, safe='')}/explain")


def _print_one(found: dict[str, Any]) -> None:
    from ccat_workflow_manager.commands.terminal_text import plain

    root = found["root"]
    said = [link["text"] for link in found.get("chain", [])] or [found["summary"]]
    for number, line in enumerate(said):
        typer.echo("  " * number + plain(line))
    if len(found.get("causes", ())) > 1:
        _print_groups(found["causes"])
        said += [each["remedy"] for each in found["causes"]]
    if root is None:
        return
    lines = {
        "Root": root["text"],
        "Recorded": root["words"],
        "Scheduler": root["scheduler"],
        "Since": root["since"],
        "Until": root["until"],
        "Whose move": root["move"],
        "What frees it": root["remedy"],
        "Waiting for the same": found.get("same_cause"),
    }
    for name, value in lines.items():
        if value is not None and not (name in _MAY_BE_SAID and any(value in line for line in said)):
            typer.echo(f"{name}: {plain(str(value))}")
    for each in found.get("again", []):
        typer.echo(plain(f"{each['at']} attempt {each['attempt']} {each['event']}: {each['text'] or ''}"))


def _print_groups(groups: list[dict[str, Any]]) -> None:
    from ccat_workflow_manager.commands.output import console, table
    from ccat_workflow_manager.commands.terminal_text import plain

    if not groups:
        typer.echo("Nothing waits.", err=True)
        return
    out = console()
    columns = _WIDE if out.width >= _WIDTH else _NARROW
    rows = [[one[field] for field in columns.values()] for one in groups]
    out.print(table(list(columns), rows, right=("step runs",), whole=("cause", "example")))
    for each in groups:  # a command in it is copied in one piece, so no line of it is broken here
        typer.echo(plain(f"{each['count']} {each['cause']}: {each['remedy']}"))
