"""`ccat-wm workers`: the workers that answer, and what they take work of, through the REST API."""

from __future__ import annotations

from typing import Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson, Why

workers = typer.Typer(name="workers", invoke_without_command=True, help="Workers: list them, drain one, resume it.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a worker (`ccat-wm workers`).")]

_WIDTH = 100
"""How wide a terminal is that shows all columns."""


@workers.callback()
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the workers: what each serves and has in hand, when it was seen, what it has ended in the last hour.

    Example:  ccat-wm workers
    """
    if context.invoked_subcommand is not None:
        return
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    columns = ("worker", "serves", "in hand", "seen (UTC)", "last hour", "drained")

    with connect() as client:
        found = list(client.items("/workers", None))
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("No worker answers.", err=True)
        return
    out = console()
    shown = columns if out.width >= _WIDTH else ("worker", "serves", "in hand")
    rows = [
        (one["id"], " ".join(one["backends"]) or "drained", one["in_hand"], when(one["seen_at"]),
         sum(one["ended_by_minute"]),
         one["drained"] and f"by {one['drained']['by']}: {one['drained']['why'] or 'no reason given'}")[: len(shown)]
        for one in found
    ]  # fmt: skip
    out.print(table(shown, rows, right=("in hand", "last hour"), whole=shown[:1] + shown[2:5]))


@workers.command()
def drain(worker: Id, why: Why = "", as_json: AsJson = False) -> None:
    """Have a worker take no new work. It finishes what it has, and stays idle until it is resumed or stopped.

    A worker that is started anew is not drained.

    Example:  ccat-wm workers drain node-1:4711:a1b2c3 --why "new memory"

    Exit codes:  0 drained,  2 no such worker, drained already, or no right,  3 no service.
    """
    _call(worker, "drain", {"why": why} if why else None, "takes no new work", as_json)


@workers.command()
def resume(worker: Id, as_json: AsJson = False) -> None:
    """Have a drained worker take work again.

    Example:  ccat-wm workers resume node-1:4711:a1b2c3

    Exit codes:  0 resumed,  2 no such worker, not drained, or no right,  3 no service.
    """
    _call(worker, "resume", None, "takes work again", as_json)


def _call(worker: str, verb: str, body: dict[str, str] | None, done: str, as_json: bool) -> None:
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.terminal_text import plain

    with connect() as client:
        found = client.post(f"/workers/{quote(worker, safe='')}/{verb}", body)
    if as_json:
        print_json(found)
    else:
        typer.echo(plain(f"the worker {found['id']} {done}"))
