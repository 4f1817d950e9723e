"""`ccat-wm run delete`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import ID_HELP, AsJson

if TYPE_CHECKING:
    from ccat_workflow_manager.commands.client import Client

_WORDS = {"run": "", "workspaces": "the workspaces of ", "failed_output": "the output of the failed attempts of "}


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
    from ccat_workflow_manager.commands.client import each_run
    from ccat_workflow_manager.commands.output import size
    from ccat_workflow_manager.json_values import counted

    what = only.replace("-", "_") if only is not None else "run"
    plural = "is" if only is None else "are"
    verb = "would be deleted" if dry_run else f"{plural} being deleted"

    def remove(client: Client, run_id: str) -> tuple[Any, str]:
        found = client.delete(f"/runs/{run_id}", what=what, dry_run="true" if dry_run else None)
        step_runs, products = counted(found["step_runs"], "step run"), counted(found["products"], "product")
        about = f"{step_runs}, {products} of {size(found['bytes'])}"
        if only is not None:
            about = f"{step_runs}; {products} of {size(found['bytes'])} stay"
        return found, f"{_WORDS[what]}{found['id']} of {found['pipeline']} {verb}: {about}"

    each_run(ids, remove, as_json)
