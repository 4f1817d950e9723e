"""`ccat-wm pipeline ledger`: what became of each step and key over all runs of a selection."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from ccat_workflow_manager.commands.arguments import AsJson

_SHOWN = 50
_OPEN = ("pending", "failing", "failed", "blocked", "cancelled")
_COLUMNS = (
    "expected", "good", "caveats", "recovered", "contradictory", "pending", "failing", "failed", "blocked", "cancelled",
    "not_needed",
)  # fmt: skip


def ledger(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a pipeline.")],
    label: Annotated[list[str], typer.Option("--label", "-l", help="Runs with this label, NAME:VALUE.")] = [],  # noqa: B006
    state: Annotated[str | None, typer.Option("--state", help="List the keys in this state.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count what became of each step and key over all runs and attempts: good, recovered, failed, and so on.

    Example:  ccat-wm pipeline ledger chai-map --label night:2026-01-31

    Exit codes:  0 shown,  2 no such pipeline, label or state,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table

    with connect() as client:
        found = client.get(f"/pipelines/{quote(name, safe='')}/ledger", label=label or None, state=state, limit=_SHOWN)
    if as_json:
        print_json(found)
        return
    total = {"step": "all", **found["totals"]}
    rows = [(one["step"], *(one[column] for column in _COLUMNS)) for one in [*found["steps"], total]]
    console().print(table(("step", *_COLUMNS), rows, right=_COLUMNS))
    if found["truncated"]:
        typer.echo(f"only the newest {found['runs']:,} runs were looked at; --label selects fewer", err=True)
    open_ = [one for one in found["items"] if state is not None or one["state"] in _OPEN]
    if open_:
        keys = [(f"{one['step']}/{one['key']}", one["state"], one["attempts"], one["step_run_id"]) for one in open_]
        console().print(table(("step run", "state", "attempts", "newest"), keys, right=("attempts",)))
    if found["next_cursor"] is not None:
        typer.echo(f"only the first {_SHOWN} keys were looked at; --state narrows them", err=True)
