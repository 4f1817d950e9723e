"""`ccat-wm run delete`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import ID_HELP, AsJson
from ccat_workflow_manager.commands.exit_codes import WrongUsage

_WORDS = {"run": "", "workspaces": "the workspaces of ", "failed_output": "the output of failed attempts of "}


class Part(StrEnum):
    """The parts of a run that can be deleted alone."""

    WORKSPACES = "workspaces"
    FAILED_OUTPUT = "failed-output"


def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help=ID_HELP)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be deleted; delete nothing.")] = False,
    only: Annotated[Part | None, typer.Option(help="Keep the run and its products.")] = None,
    as_json: AsJson = False,
) -> None:
    """Delete runs that are over: their directories, and then all the service knows of them.

    A run whose products another run uses is not deleted.

    Example:  ccat-wm run delete latest --dry-run

    Exit codes:  0 deleted, or soon,  2 no such run, or it is not over, or it is used,  3 no service.
    """
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json, size
    from ccat_workflow_manager.errors import Fault, RequestError

    what = only.replace("-", "_") if only is not None else "run"
    answers: list[Any] = []
    refused: list[Fault] = []
    with connect() as client:
        for given in ids:
            try:
                run_id = client.run_id(given)
                query = {"what": what, "dry_run": "true" if dry_run else None}
                answers.append(found := client.delete(f"/runs/{quote(run_id, safe='')}", **query))
            except RequestError as error:
                refused.append(Fault(given, error.message))
                continue
            if not as_json:
                verb = "would be deleted" if dry_run else "is being deleted"
                about = f"{found['step_runs']} step runs, {found['products']} products of {size(found['bytes'])}"
                typer.echo(f"{_WORDS[what]}{found['id']} of {found['pipeline']} {verb}: {about}")
    if as_json:
        print_json(answers)
    if refused:
        raise WrongUsage(faults=refused)
