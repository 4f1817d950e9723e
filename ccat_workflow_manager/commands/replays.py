"""`ccat-wm run replay`: repeat a finished run as a new one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import ID_HELP, AsJson
from ccat_workflow_manager.commands.exit_codes import WrongUsage


def replay(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help=ID_HELP)],
    start: Annotated[
        str, typer.Option("--from", metavar="STEP", help="Start again from this step; `failed`: what did not complete.")
    ] = "failed",
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Only step runs with this key. May be repeated.")
    ] = None,
    version: Annotated[str, typer.Option(help="same, latest or a number.")] = "same",
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Another value, JSON or text."),
    ] = None,
    no_reuse: Annotated[bool, typer.Option("--no-reuse", help="Start everything again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key and request give the same runs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Repeat finished runs as new ones. What need not be started again is taken over; old products stay.

    Example:  ccat-wm run replay latest --from reduce --version latest --dry-run
    """
    from uuid import uuid4

    from ccat_workflow_manager.commands import arguments
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json

    if version not in ("same", "latest") and not version.isdecimal():
        raise WrongUsage(f"--version must be same, latest or a number, not {version!r}")
    with connect() as client:
        body = {
            "ids": [client.run_id(each) for each in ids],
            "from": _from(start, key),
            "version": int(version) if version.isdecimal() else version,
            "parameters": arguments.parameters(parameter or (), None, lambda: None),
            "reuse": not no_reuse,
            "dry_run": dry_run,
        }
        answer = client.post("/runs/replay", body, idempotency_key=idempotency_key or str(uuid4()))
    if as_json:
        print_json(answer)
    else:
        for item in answer["items"]:
            _print(item)
    refused = [item for item in answer["items"] if item["outcome"] == "refused"]
    if refused:
        raise WrongUsage(f"{len(refused)} of {len(answer['items'])} runs could not be replayed")


def _from(start: str, keys: list[str] | None) -> Any:
    if not keys:
        return start
    return {"keys": keys} if start == "failed" else {"step": start, "keys": keys}


def _print(item: dict[str, Any]) -> None:
    from ccat_workflow_manager.commands.output import duration
    from ccat_workflow_manager.commands.terminal_text import plain
    from ccat_workflow_manager.json_values import counted

    if item["outcome"] == "refused":
        typer.echo(f"{item['run_id']} refused: {plain(item['reason'])}")
        return
    where = f" as {item['new_run_id']}" if item["new_run_id"] else ""
    cost, again = item["cost"], item["again"]
    starts = f"{counted(again, 'step run')} {'starts' if again == 1 else 'start'}"
    typer.echo(
        f"{item['run_id']} {item['outcome'].replace('_', ' ')}{where}: {starts} again"
        f" (about {duration(cost['wall_time_seconds'])} of work), {item['reused']} are taken over"
    )
    for step in item["steps"]:
        why = f": {plain('; '.join(step['why']))}" if step["why"] else ""
        typer.echo(f"  {step['step']}: {step['again']} again, {step['reused']} taken over{why}")
