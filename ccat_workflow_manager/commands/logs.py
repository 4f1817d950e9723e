"""`ccat-wm run logs`."""

from __future__ import annotations

from typing import Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson, Id
from ccat_workflow_manager.commands.exit_codes import WrongUsage


def logs(
    run_id: Id,
    step: Annotated[
        str | None, typer.Argument(metavar="STEP", help="STEP, STEP/KEY or STEP/ITEM; * and ? stand for any text.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Key of the step run, if the step has several.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Of all step runs that failed.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="An earlier attempt (default: the latest).")] = None,
    stream: Annotated[str, typer.Option(help="stdout, stderr or both.")] = "both",
    tail: Annotated[int | None, typer.Option(min=0, help="Number of lines from the end (default: all).")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the step run is finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the logs of step runs: what they wrote to stdout on stdout, what they wrote to stderr on stderr.

    With one --stream, that is printed on stdout. With --json, the logs are texts of one mapping, or of a list of
    mappings if STEP is a pattern or --failed is given; with --follow, it is printed when the step run is finished.

    Example:  ccat-wm run logs latest calibrate/scan-01 --follow

    Example:  ccat-wm run logs latest --failed --tail 20
    """
    from ccat_workflow_manager.client.follow import BOTH, STREAMS
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.run_logs import failed_step_runs, find_step_runs, print_log

    if stream not in (*STREAMS, BOTH):
        raise WrongUsage(f"--stream must be stdout, stderr or both, not {stream!r}")
    if step is None and not failed:
        raise WrongUsage("name a STEP, or give --failed for the step runs that failed")
    with connect() as client:
        run = client.run(run_id)
        found = find_step_runs(run, step, key) if step is not None else run["step_runs"]
        if failed:
            found = failed_step_runs(found)
        several = failed or step is None or len(found) > 1
        if several and follow:
            raise WrongUsage("--follow takes one step run; name it by STEP/KEY")
        if not found:
            typer.echo("no step run has failed", err=True)
        shown = [
            print_log(
                client, each, attempt=attempt, stream=stream, tail=tail, follow=follow, as_json=as_json, head=several
            )
            for each in found
        ]
    if as_json:
        print_json(shown if several else shown[0])
