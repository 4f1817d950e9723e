"""`ccat-wm`: the commands of `commands/`. Each imports what it needs when it runs, so that `--help` is fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ccat_workflow_manager import __version__
from ccat_workflow_manager.commands.audit import audit
from ccat_workflow_manager.commands.backends import backend, backends
from ccat_workflow_manager.commands.breakers import breakers
from ccat_workflow_manager.commands.demo import demo
from ccat_workflow_manager.commands.doctor import doctor
from ccat_workflow_manager.commands.exit_codes import ExitCode, drop_stdout, exit_code, report
from ccat_workflow_manager.commands.explain import explain
from ccat_workflow_manager.commands.help_text import own_words, tidy
from ccat_workflow_manager.commands.holds import holds, pause, resume
from ccat_workflow_manager.commands.init import init
from ccat_workflow_manager.commands.overrides import overrides
from ccat_workflow_manager.commands.pipelines import pipeline
from ccat_workflow_manager.commands.projects import project
from ccat_workflow_manager.commands.runs import run
from ccat_workflow_manager.commands.serve import db, manager, up, worker
from ccat_workflow_manager.commands.tokens import token
from ccat_workflow_manager.commands.verify import verify
from ccat_workflow_manager.commands.webhooks import webhook
from ccat_workflow_manager.commands.workers import workers
from ccat_workflow_manager.errors import WorkflowError

_PANELS: dict[str, tuple[Any, ...]] = {
    "Start": (demo, up, doctor),
    "Work": (init, pipeline, run, explain),
    "Site": (
        manager,
        worker,
        db,
        token,
        webhook,
        project,
        pause,
        resume,
        holds,
        overrides,
        audit,
        verify,
        breakers,
        workers,
        backends,
        backend,
    ),
}
"""The commands in the order of `ccat-wm --help`: a function is a command, a `Typer` is a group of commands."""


def _name(command: Any) -> str:
    return str(command.info.name if isinstance(command, typer.Typer) else command.__name__)


class _Commands(TyperGroup):
    """Ends every command with an exit code, and without a traceback for expected errors."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        tidy(self)

    def list_commands(self, ctx: Any) -> list[str]:
        return [_name(command) for commands in _PANELS.values() for command in commands]

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except typer.BadParameter as error:
            error.message = own_words(error.message)
            raise
        except BrokenPipeError:
            drop_stdout()
            raise typer.Exit(ExitCode.BROKEN_PIPE) from None
        except WorkflowError as error:
            report(error)
            raise typer.Exit(exit_code(error)) from None


app = typer.Typer(
    name="ccat-wm",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Durable pipelines of containers on the compute resources of your site.",
    epilog="Exit codes: 0 ok, 1 the work failed, 2 wrong usage or bad input, 3 cannot reach or use a service.",
)

for _panel, _commands in _PANELS.items():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, rich_help_panel=_panel)
        else:
            app.command(rich_help_panel=_panel)(_command)


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
    """Durable pipelines of containers on the compute resources of your site."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    app(args=arguments, prog_name="ccat-wm")
