"""`ccat-wm run retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import AsJson, EndsAt, Ids, end_of
from ccat_workflow_manager.commands.exit_codes import WrongUsage

if TYPE_CHECKING:
    from ccat_workflow_manager.commands.client import Client


def retry(
    ids: Ids,
    step: Annotated[str | None, typer.Option(help="Only the step runs of this step, and those behind them.")] = None,
    key: Annotated[str | None, typer.Option(help="Only the step run of the step with this key.")] = None,
    memory: Annotated[float | None, typer.Option(metavar="GB", help="Memory of the next attempts.")] = None,
    time: Annotated[float | None, typer.Option(metavar="HOURS", help="Time limit of the next attempts.")] = None,
    cpu: Annotated[float | None, typer.Option(help="CPUs of the next attempts.")] = None,
    backend: Annotated[str | None, typer.Option(help="Backend of the next attempts.")] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for the history.")] = None,
    until: EndsAt = "",
    watch: Annotated[bool, typer.Option("--watch", help="Show the progress of the run until it is finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """Retry the step runs that did not complete; completed ones stay as they are.

    With --step, the next attempts of the step may get other resources, within its caps, or run elsewhere;
    with --until, only those that start until then.

    Example:  ccat-wm run retry latest --step reduce --memory 8 --watch

    Exit codes:  0 retried, with --watch COMPLETED,  1 with --watch FAILED or CANCELLED,  2 bad input,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect, each_run
    from ccat_workflow_manager.commands.watched_run import watch_to_end

    if watch and len(ids) > 1:
        raise WrongUsage(f"--watch takes one run, not {len(ids)}")
    resources = {"memory_gb": memory, "time_hours": time, "cpu": cpu}
    changed = {name: value for name, value in resources.items() if value is not None}
    body = {"step": step, "key": key, "resources": changed or None, "backend": backend, "reason": reason,
            "until": end_of(until)}  # fmt: skip
    given = {name: value for name, value in body.items() if value is not None}

    def change(client: Client, run_id: str) -> tuple[Any, str]:
        what = _what_is_retried(client.run(run_id)) if step is None else ""
        return client.post(f"/runs/{run_id}/retry", given or None), f"{run_id} is retried{what}"

    if not watch:
        each_run(ids, change, as_json)
        return
    with connect() as client:
        retried, line = change(client, client.run_id(ids[0]))
        typer.echo(line, err=as_json)
        watch_to_end(client, retried["id"], as_json=as_json)


def _what_is_retried(run: dict[str, Any]) -> str:
    """`: 5 failed, 1 skipped`."""
    counts = ((run["counts"].get(status, 0), status.lower()) for status in ("FAILED", "CANCELLED", "SKIPPED"))
    return ": " + ", ".join(f"{number} {word}" for number, word in counts if number)
