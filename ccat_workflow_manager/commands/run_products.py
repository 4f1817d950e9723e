"""`ccat-wm run products` and `run download`."""

from __future__ import annotations

from typing import Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson, Id
from ccat_workflow_manager.commands.exit_codes import WrongUsage

Step = Annotated[str | None, typer.Option(metavar="STEP", help="Only products of this step.")]
Type = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only SCIENCE, PLOT, QA_METRIC, ...")]
Key = Annotated[str | None, typer.Option(metavar="KEY", help="Only this key; * and ? stand for any text.")]


def products(run_id: Id, step: Step = None, type_: Type = None, key: Key = None, as_json: AsJson = False) -> None:
    """List the products of a run.

    Example:  ccat-wm run products latest --type SCIENCE
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, size, table

    with connect() as client:
        found = list(client.products(client.run_id(run_id), step=step, type=_upper(type_), key=key))
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("No products match.", err=True)
    else:
        found.sort(key=lambda one: (one["step"], one["key"], one["path"]))
        rows = [(f"{one['step']}/{one['key']}", one["path"], one["type"], size(one["size"])) for one in found]
        console().print(table(("step run", "path", "type", "size"), rows, right=("size",)))


def download(
    run_id: Id,
    directory: Annotated[str | None, typer.Argument(metavar="[DIR]", help="Default: PIPELINE-RUN here.")] = None,
    step: Step = None,
    type_: Type = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Download the products of a run to DIR/STEP/KEY/PATH, and verify their checksums.

    What is there already stays. After an interruption, the same command goes on where it stopped.

    Example:  ccat-wm run download latest maps --step grid --type SCIENCE
    """
    from pathlib import Path

    from ccat_workflow_manager.client.both import finished
    from ccat_workflow_manager.client.download import fetch
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json, progress
    from ccat_workflow_manager.json_values import counted

    with connect() as client:
        found = client.run(run_id)
        target = Path(directory or f"{found['pipeline']}-{found['id'][-12:]}")
        wanted = list(client.products(found["id"], step=step, type=_upper(type_), key=key))
        total = sum(one["size"] for one in wanted)
        with progress("downloading", total) as advance:
            fetched = []
            try:
                for one in wanted:
                    fetched.append(finished(fetch(client.api, one, target)))
                    advance(one["size"])
            except OSError as error:
                raise WrongUsage(f"{error.filename or target} cannot be written: {error.strerror}") from None
    if as_json:
        print_json([{**each.product, "file": str(each.path), "was_there": each.was_there} for each in fetched])
    elif not fetched:
        typer.echo("No products match.", err=True)
    else:
        old = sum(each.was_there for each in fetched)
        typer.echo(f"{target}: {counted(len(fetched), 'product')}{f', {old} of them were there' if old else ''}")


def _upper(text: str | None) -> str | None:
    return None if text is None else text.upper()
