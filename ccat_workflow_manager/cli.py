"""`ccat-wm`: the commands, put together. Each imports what it needs when it runs, so that `--help` is there at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ccat_workflow_manager import __version__
from ccat_workflow_manager.commands import exit_codes as endings
from ccat_workflow_manager.commands.backends import backend, backends
from ccat_workflow_manager.commands.breakers import breakers
from ccat_workflow_manager.commands.demo import demo
from ccat_workflow_manager.commands.doctor import doctor
from ccat_workflow_manager.commands.pipelines import pipeline
from ccat_workflow_manager.commands.runs import run
from ccat_workflow_manager.commands.serve import db, manager, up, worker
from ccat_workflow_manager.errors import WorkflowError

_ORDER = ("demo", "up", "doctor", "pipeline", "run", "manager", "worker", "db", "breakers", "backends", "backend")


class _Commands(TyperGroup):
    """All commands end here: with an exit code, and never with a traceback for what can be expected."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            endings.drop_stdout()
            raise typer.Exit(endings.ExitCode.BROKEN_PIPE) from None
        except WorkflowError as error:
            endings.report(error)
            raise typer.Exit(endings.exit_code(error)) from None


app = typer.Typer(
    name="ccat-wm",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Durable pipelines of containers on whatever computes at your site.",
    epilog="Exit codes: 0 ok, 1 the work failed, 2 wrong usage or bad input, 3 cannot reach or use a service.",
)

_START, _WORK, _SITE = "Start", "Work", "Site"
app.command(rich_help_panel=_START)(demo)
app.command(rich_help_panel=_START)(up)
app.command(rich_help_panel=_START)(doctor)
app.add_typer(pipeline, name="pipeline", rich_help_panel=_WORK)
app.add_typer(run, name="run", rich_help_panel=_WORK)
app.command(rich_help_panel=_SITE)(manager)
app.command(rich_help_panel=_SITE)(worker)
app.add_typer(db, name="db", rich_help_panel=_SITE)
app.add_typer(breakers, name="breakers", rich_help_panel=_SITE)
app.command(rich_help_panel=_SITE)(backends)
app.add_typer(backend, name="backend", rich_help_panel=_SITE)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ccat-wm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Durable pipelines of containers on whatever computes at your site."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    app(args=arguments, prog_name="ccat-wm")
