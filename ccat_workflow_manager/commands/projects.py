"""`ccat-wm project`: projects, their shares and their limits, through the REST API."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import AsJson, EndsAt, Why, terms
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.json_values import similar

project = typer.Typer(name="project", no_args_is_help=True, help="Projects: their shares of what is launched, limits.")

_LIMITS = ("max_live", "max_cpus", "max_queued")
_Limit = Annotated[str, typer.Option(metavar="N|none", help="A number, or `none` for no limit.")]


@project.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the projects with what they use of their limits.

    Example:  ccat-wm project list
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table

    with connect() as client:
        found = list(client.items("/projects", None))
    if as_json:
        print_json(found)
        return
    uses = (("live", "max_live"), ("cpus", "max_cpus"), ("queued", "max_queued"))
    rows = [
        (one["name"], f"{one['weight']:g}", *(_of(one[use], one[most]) for use, most in uses))
        for one in found
    ]  # fmt: skip
    right = ("weight", "live", "CPUs", "queued")
    console().print(table(("project", *right), rows, right=right))


@project.command("set")
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Any name; a project need not exist before.")],
    weight: Annotated[float | None, typer.Option(help="Its share while other projects have work; 1 at first.")] = None,
    max_live: _Limit = "",
    max_cpus: _Limit = "",
    max_queued: _Limit = "",
    why: Why = "",
    until: EndsAt = "",
    as_json: AsJson = False,
) -> None:
    """Set the share and the limits of a project. What is not given stays.

    The limits are of step runs that have a job at once (--max-live), of the CPUs of these jobs (--max-cpus), and of
    PENDING step runs (--max-queued), above which new runs are refused. With --until, all is as before from then on.

    Example:  ccat-wm project set survey --weight 3 --max-live 500 --max-cpus none

    Example:  ccat-wm project set survey --max-live 1000 --until +8h

    Exit codes:  0 set,  2 bad input or no right,  3 no service.
    """
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.terminal_text import plain

    given = {"max_live": max_live, "max_cpus": max_cpus, "max_queued": max_queued}
    changes: dict[str, Any] = {each: _number(each, text) for each, text in given.items() if text}
    if weight is not None:
        changes["weight"] = weight
    if not changes:
        raise WrongUsage("give --weight, --max-live, --max-cpus or --max-queued")
    with connect() as client:
        known = [str(one["name"]) for one in client.items("/projects", None)]
        found = client.patch(f"/projects/{quote(name, safe='')}", changes | terms(why, until))
    if name not in known:
        close = similar(name, known)
        typer.echo(plain(f"made project {name}" + (f"; did you mean {close}?" if close else "")), err=True)
    if as_json:
        print_json(found)
        return
    limits = ", ".join(f"{each} {'none' if found[each] is None else format(found[each], 'g')}" for each in _LIMITS)
    typer.echo(plain(f"{found['name']}: weight {found['weight']:g}, {limits}"))


def _number(name: str, text: str) -> float | int | None:
    if text == "none":
        return None
    try:
        return float(text) if name == "max_cpus" else int(text)
    except ValueError:
        raise WrongUsage(f"--{name.replace('_', '-')} {text!r} is neither a number nor `none`") from None


def _of(used: float, most: float | None) -> str:
    return f"{used:g}" if most is None else f"{used:g} of {most:g}"
