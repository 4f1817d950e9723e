"""`ccat-wm up`, `manager`, `worker` and `db`: the processes of a deployment."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson
from ccat_workflow_manager.commands.exit_codes import ExitCode, WrongUsage
from ccat_workflow_manager.commands.startup import keep_files_private, reachable, set_up_log, starting

if TYPE_CHECKING:
    from ccat_workflow_manager.db.session import Database
    from ccat_workflow_manager.settings import Settings

log = logging.getLogger(__name__)

db = typer.Typer(name="db", no_args_is_help=True, help="The database: apply or check its migrations.")

DataDir = Annotated[Path | None, typer.Option(help="Directory of all data (default: DATA_DIR).")]


def up(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = None,
    data_dir: DataDir = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of workers to start.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the servers that a killed `up` has left.")] = False,
) -> None:
    """Run everything on this machine: PostgreSQL, Valkey, the manager with the API, and workers.

    Embedded servers are used where DATABASE_URL and REDIS_URL are empty. Ctrl-C stops everything except running
    jobs; the next `up` continues to follow them. Tasks in hand are finished first, for up to 30 s; a second Ctrl-C
    ends them at once.

    Example:  ccat-wm up --port 8080 --data-dir ~/ccat

    Exit codes:  0 stopped by Ctrl-C or SIGTERM,  2 settings with faults,  3 a service could not be started.
    """
    settings = _settings(serves_api=True, runs_jobs=True, API_PORT=port, DATA_DIR=data_dir, WORKERS=workers)
    with starting():
        from ccat_workflow_manager import supervise

        if stop:
            _print_stopped(supervise.stop_abandoned(settings), settings)
            return
        _make_example_image(settings)
        supervise.up(settings, lambda deployment: _print_addresses(deployment.api_url, settings))


def _make_example_image(settings: Settings) -> None:
    """Make the image that the files of `ccat-wm init` name. Without it everything else works, so a failure is said."""
    from ccat_workflow_manager.errors import WorkflowError
    from ccat_workflow_manager.execution import runtime

    if settings.environment != "localdev":
        return
    found = runtime.detect(settings.container_runtime, allow_none=True)
    if not found.contained:
        return
    from ccat_workflow_manager.demo import ensure_demo_image

    try:
        ensure_demo_image(str(settings.sif_cache_dir), found)
    except (WorkflowError, OSError) as error:
        typer.echo(f"warning: ccat-demo.sif, the image for first pipelines, could not be made: {error}", err=True)


def _print_stopped(found: list[tuple[str, bool]], settings: Settings) -> None:
    for name, stopped in found:
        what = "stopped" if stopped else "in use by a running `ccat-wm up` or `demo`: end that with Ctrl-C or SIGTERM"
        typer.echo(f"{name} in {settings.data_dir}: {what}")
    if not found:
        typer.echo(f"no embedded server runs in {settings.data_dir}")
    if not all(stopped for _, stopped in found):
        raise typer.Exit(ExitCode.NO_SERVICE)


def _print_addresses(api_url: str, settings: Settings) -> None:
    from ccat_workflow_manager.execution import runtime

    typer.echo(f"API: {api_url}   data: {settings.data_dir}   Ctrl-C stops everything")
    if runtime.falls_back(settings.container_runtime, allow_none=settings.environment == "localdev"):
        typer.echo(f"No containers: {runtime.FELL_BACK}")


def manager(
    api: Annotated[bool, typer.Option("--api/--no-api", help="Serve the REST API.")] = True,
    loops: Annotated[bool, typer.Option("--loops/--no-loops", help="Run the control loops.")] = True,
) -> None:
    """Run a manager: the REST API and the control loops. Several may run at the same time.

    Example:  ccat-wm manager --no-loops

    Exit codes:  0 stopped by a signal,  2 settings with faults,  3 the database cannot be used or is not current.
    """
    if not api and not loops:
        raise WrongUsage("--no-api and --no-loops together leave a manager nothing to do")
    settings = _settings(serves_api=api, runs_jobs=True)
    with starting(settings):
        from ccat_workflow_manager.processes import run_manager

        _end_on_signals()
        with reachable(settings) as found:
            run_manager(found, api=api, with_loops=loops)


def worker(
    backend: Annotated[list[str] | None, typer.Option(help="Default: HPC_BACKEND. May be repeated.")] = None,
) -> None:
    """Run a worker: it launches, polls, cancels and collects jobs, on a machine with the scheduler and the files.

    Example:  ccat-wm worker --backend slurm --backend local

    Exit codes:  0 stopped by a signal,  2 settings with faults or no such backend,  3 PostgreSQL or Redis is away.
    """
    settings = _settings(runs_jobs=True)
    names = list(dict.fromkeys(backend or [settings.hpc_backend]))
    _check_backends(names)
    with starting(settings):
        from ccat_workflow_manager.processes import run_worker

        _end_on_signals()
        with reachable(settings) as found:
            run_worker(found, names)


def _end_on_signals() -> None:
    """Exit with all clean-up on a signal, also one that arrives before anything is served."""

    def end(number: int, frame: FrameType | None) -> None:
        raise typer.Exit(ExitCode.OK)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _check_backends(names: list[str]) -> None:
    from ccat_workflow_manager.hpc import registry

    known = registry.names()
    for name in names:
        if name not in known:
            raise WrongUsage(f"there is no backend {name!r}; known: {', '.join(known)}")


def _settings(*, serves_api: bool = False, runs_jobs: bool = False, **overrides: object) -> Settings:
    """Load the settings of a server process and set up its log."""
    from ccat_workflow_manager.settings import PREFIX, load_settings_apart, unprefixed

    given = {name: str(value) for name, value in overrides.items() if value is not None}
    settings = load_settings_apart(given, serves_api=serves_api, runs_jobs=runs_jobs)
    set_up_log(settings.log_level, as_json=settings.logs_json)
    keep_files_private()
    if names := unprefixed():
        log.warning("ignored, because a setting begins with %s: %s", PREFIX, ", ".join(names))
    return settings


# --- db --------------------------------------------------------------------------------------------------------------


@contextmanager
def host_database() -> Iterator[Database]:
    settings = _settings()
    with starting():
        from ccat_workflow_manager.db.session import Database

        with reachable(settings, redis=False) as found:
            database = Database(found.database_url)
            yield database
            database.close()


@db.command()
def upgrade() -> None:
    """Apply all migrations. `ccat-wm up` does so itself.

    Example:  ccat-wm db upgrade

    Exit codes:  0 the database is current,  3 it cannot be reached.
    """
    with host_database() as database:
        from ccat_workflow_manager.db import migrate

        before = migrate.upgrade(database)
    if before.is_current:
        typer.echo(f"the database is current: {before.current}")
    else:
        typer.echo(f"the database was upgraded from {before.current or 'nothing'} to {before.wanted}")


@db.command()
def prune(
    keep_months: Annotated[
        int | None, typer.Option(min=1, help="The present month counts as one (default: EVENTS_KEEP_MONTHS).")
    ] = None,
) -> None:
    """Delete the events of old months. Runs, attempts and products stay.

    Example:  ccat-wm db prune --keep-months 12

    Exit codes:  0 done,  2 neither option nor setting says how much to keep,  3 the database cannot be reached.
    """
    months = keep_months or _settings().events_keep_months
    if not months:
        raise WrongUsage("EVENTS_KEEP_MONTHS is 0: say how much to keep with --keep-months")
    with host_database() as database:
        from ccat_workflow_manager.db.partitions import maintain_events
        from ccat_workflow_manager.identity import user_of

        dropped = maintain_events(database, months, user_of(os.geteuid()))
    typer.echo(f"deleted: {', '.join(dropped)}" if dropped else "there is nothing older")


@db.command()
def check(as_json: AsJson = False) -> None:
    """Check whether all migrations are applied.

    Example:  ccat-wm db check && ccat-wm manager

    Exit codes:  0 current,  3 not current or not reachable.
    """
    from ccat_workflow_manager.commands.output import print_json

    with host_database() as database:
        from ccat_workflow_manager.db import migrate

        state = migrate.state(database)
    if as_json:
        print_json({"current": state.current, "wanted": state.wanted, "is_current": state.is_current})
    elif state.is_current:
        typer.echo(f"the database is current: {state.current}")
    else:
        at = f"is at {state.current}" if state.current else "has no tables yet"
        typer.echo(f"the database {at}, this version needs {state.wanted}; {state.remedy}")
    if not state.is_current:
        raise typer.Exit(ExitCode.NO_SERVICE)
