"""`ccat-wm run products` and `run download`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import AsJson, Id
from ccat_workflow_manager.commands.exit_codes import WrongUsage

Step = Annotated[str | None, typer.Option(metavar="STEP", help="Only products of this step.")]
Type = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only SCIENCE, PLOT, QA_METRIC, ...")]
Key = Annotated[str | None, typer.Option(metavar="KEY", help="Only this key; * and ? stand for any text.")]

_NAMED = 5


def products(run_id: Id, step: Step = None, type_: Type = None, key: Key = None, as_json: AsJson = False) -> None:
    """List the products of a run.

    Example:  ccat-wm run products latest --type SCIENCE
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, size, table

    with connect() as client:
        found = list(client.products(client.run_id(run_id), step=step, type=_upper(type_), key=key))
        if not found and step is not None:
            _require_step(client.run(run_id), step)
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
        _require_step(found, step)
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
    if missing := _missing(found, step):
        typer.echo(missing, err=True)


def _require_step(run: dict[str, Any], step: str | None) -> None:
    """Raises WrongUsage unless the run has this step."""
    from ccat_workflow_manager.json_values import listed, similar

    known = list(dict.fromkeys(each["step"] for each in run["step_runs"]))
    if step is None or step in known:
        return
    close = similar(step, known)
    hint = f"did you mean {close}?" if close else f"there are {listed(known)}"
    raise WrongUsage(f"the run {run['id']} has no step {step!r}; {hint}")


def _missing(run: dict[str, Any], step: str | None) -> str:
    """Which step runs have no products because they did not complete; empty if all did."""
    from ccat_workflow_manager.commands.terminal_text import plain
    from ccat_workflow_manager.commands.watch import label
    from ccat_workflow_manager.json_values import listed

    asked = [each for each in run["step_runs"] if step in (None, each["step"])]
    lacking = [label(each) for each in asked if each["status"] != "COMPLETED"]
    if not lacking:
        return ""
    return f"the run is {run['status']}: {len(lacking)} of {len(asked)} step runs did not complete: " + plain(
        listed(lacking, _NAMED)
    )


def _upper(text: str | None) -> str | None:
    return None if text is None else text.upper()
