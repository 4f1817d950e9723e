"""Watches a run to its end for the commands that can do so, and ends them with what became of it."""

from __future__ import annotations

import typer

from ccat_workflow_manager.commands.client import Client
from ccat_workflow_manager.commands.exit_codes import ExitCode
from ccat_workflow_manager.commands.output import console, print_json
from ccat_workflow_manager.commands.run_tables import status
from ccat_workflow_manager.commands.watch import summary, watch_run
from ccat_workflow_manager.lifecycle.states import RunStatus


def watch_to_end(client: Client, run_id: str, *, as_json: bool) -> None:
    """Show the progress of a run until it is finished, and then what it used. Exits with 1 unless it COMPLETED."""
    out = console(stderr=as_json)
    run_id = client.run_id(run_id)
    try:
        finished = watch_run(client, run_id, out)
    except KeyboardInterrupt:
        typer.echo(f"the run goes on; see it with: ccat-wm run watch {run_id}", err=True)
        raise
    if as_json:
        print_json(finished)
    else:
        out.print(f"run {finished['id']} of {finished['pipeline']}: {status(finished)}", soft_wrap=True)
        summary(finished, out)
    if finished["status"] != RunStatus.COMPLETED:
        raise typer.Exit(ExitCode.WORK_FAILED)
