"""`ccat-wm run`: runs, through the REST API."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import AsJson, EndsAt, Id, Ids, OfProject, Until, Why, terms
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.commands.logs import logs
from ccat_workflow_manager.commands.replays import replay
from ccat_workflow_manager.commands.run_compare import compare
from ccat_workflow_manager.commands.run_delete import delete
from ccat_workflow_manager.commands.run_order import Order, in_order
from ccat_workflow_manager.commands.run_products import download, products
from ccat_workflow_manager.commands.run_retry import retry

if TYPE_CHECKING:
    from ccat_workflow_manager.commands.client import Client

run = typer.Typer(
    name="run", no_args_is_help=True, help="Runs: submit, watch, cancel, retry, read logs, download products."
)

_NAMED_CAVEATS = 5

Labels = Annotated[list[str] | None, typer.Option("--label", metavar="NAME:VALUE", help="May be repeated.")]


@run.command()
def submit(
    pipeline: Annotated[str | None, typer.Argument(metavar="PIPELINE", help="Name of a pipeline.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(metavar="FILE", help="Parameters as YAML or JSON; -p overrides.")
    ] = None,
    label: Labels = None,
    version: Annotated[int | None, typer.Option(min=1, help="An older version of the pipeline.")] = None,
    project: Annotated[str | None, typer.Option(metavar="NAME", help="Default: that of the pipeline.")] = None,
    priority: Annotated[int | None, typer.Option(help="A higher priority runs first.")] = None,
    backend: Annotated[str | None, typer.Option(help="For steps that name no backend.")] = None,
    spec: Annotated[str | None, typer.Option(metavar="FILE", help="Run this definition without applying it.")] = None,
    reuse: Annotated[
        str | None, typer.Option(metavar="RUN", help="Take over the products of this run where nothing has changed.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key and request give the same run.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the progress until the run is finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run of a pipeline.

    A VALUE that is valid JSON is parsed as JSON; any other value is text. So is the value of a parameter that the
    pipeline declares with type: string:
      -p line=CO43                  text
      -p 'scans=["s1", "s2"]'       a list
      -p threshold=3 -p 'x="3"'     a number, and a text
      -p 'scans=@/data/raw/*.fits'  the files that match, sorted

    Example:  ccat-wm run submit chai-map -p line=CO43 --params scans.yaml --watch

    Exit codes:  0 submitted, with --watch COMPLETED,  1 with --watch FAILED or CANCELLED,  2 bad input,  3 no service.
    """
    from ccat_workflow_manager.commands import arguments
    from ccat_workflow_manager.commands.client import connect, suggesting

    _check_target(pipeline, spec, version)
    definition = arguments.as_mapping(arguments.read_pipeline(spec), spec, "a pipeline") if spec is not None else None
    with connect() as client:

        @cache
        def declared() -> Any:
            return definition or (_definition(client, pipeline, version) if pipeline is not None else None)

        given = _given(
            pipeline=pipeline, version=version, spec=definition, project=project, priority=priority, backend=backend,
            parameters=arguments.parameters(parameter or (), params, declared),
            labels=arguments.labels(label or ()),
            reuse=None if reuse is None else client.run_id(reuse),
        )  # fmt: skip
        with suggesting(client, pipeline), arguments.naming_the_at_sign(parameter or ()):
            made = client.post("/runs", given, idempotency_key=idempotency_key)
        arguments.warn_of_undeclared(given.get("parameters", {}), declared)
        _submitted(client, made, watch=watch, as_json=as_json)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _submitted(client: Client, made: dict[str, Any], *, watch: bool, as_json: bool) -> None:
    if watch:
        from ccat_workflow_manager.commands.watched_run import watch_to_end

        watch_to_end(client, made["id"], as_json=as_json)
    elif as_json:
        _print_json(made)
    else:
        typer.echo(f"{made['id']}  {made['pipeline']}  {made['status']}")
        typer.echo(f"watch it with: ccat-wm run watch {made['id']}", err=True)


def _check_target(pipeline: str | None, spec: str | None, version: int | None) -> None:
    if (pipeline is None) == (spec is None):
        raise WrongUsage("give either a PIPELINE or a definition with --spec FILE")
    if spec is not None and version is not None:
        raise WrongUsage("--version cannot be given with --spec: only registered pipelines have versions")


def _definition(client: Client, pipeline: str, version: int | None) -> Any:
    """The definition of the run; None if there is none, which the service then refuses."""
    from urllib.parse import quote

    from ccat_workflow_manager.commands.client import ApiRefused

    address = f"/pipelines/{quote(pipeline, safe='')}"
    try:
        if version is None:
            found = client.get(address)
            return found.get("definition") if isinstance(found, dict) else None
        versions = client.items(f"{address}/versions", None)
        return next((each["definition"] for each in versions if each["version"] == version), None)
    except ApiRefused:
        return None


@run.command("list")
def list_(
    status: Annotated[
        list[str] | None, typer.Option(help="PENDING, RUNNING, COMPLETED, FAILED or CANCELLED. May be repeated.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(help="Runs of this pipeline.")] = None,
    project: OfProject = None,
    label: Labels = None,
    failed: Annotated[bool, typer.Option("--failed", help="The same as --status FAILED.")] = False,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Created since: 24h, 7d, or RFC 3339.")] = None,
    created_after: Annotated[str | None, typer.Option(hidden=True)] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Created before this time, written like --since.")
    ] = None,
    caveats: Annotated[
        bool | None, typer.Option("--caveats/--no-caveats", help="Only runs with caveats, or without.")
    ] = None,
    sort: Annotated[Order | None, typer.Option(metavar="ORDER", help=f"One of {', '.join(Order)}.")] = None,
    query: Annotated[str | None, typer.Option("-q", "--query", help="Part of a name, label, reason or id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of runs.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="List all of them.")] = False,
    form: Annotated[str | None, typer.Option("-o", "--output", help="wide, json or id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the newest runs, in a table those that failed first. A narrow terminal shows fewer columns.

    Example:  ccat-wm run list --failed --since 24h --label night:2026-01-31 --all
    """
    from ccat_workflow_manager.commands.arguments import moment_before_now
    from ccat_workflow_manager.commands.client import connect

    if form not in (None, "wide", "json", "id"):
        raise WrongUsage(f"-o must be wide, json or id, not {form!r}")
    since = since or created_after
    statuses = [each.upper() for each in status or ()] + (["FAILED"] if failed else [])
    filters = {
        "status": statuses or None,
        "pipeline": pipeline,
        "project": project,
        "label": label or None,
        "created_after": moment_before_now(since) if since is not None else None,
        "created_before": moment_before_now(until) if until is not None else None,
        "q": query,
        "caveats": caveats,
    }
    with connect() as client:
        found = list(client.items("/runs", None if everything else limit, **filters))
    as_table = not as_json and form in (None, "wide")
    found = in_order(found, sort or (Order.FAILED if as_table else Order.CREATED))
    if as_json or form == "json":
        _print_json(found)
    elif form == "id":
        typer.echo("".join(f"{one['id']}\n" for one in found), nl=False)
    elif not found:
        typer.echo("No runs match.", err=True)
    else:
        from ccat_workflow_manager.commands.run_tables import print_runs

        print_runs(found, wide=form == "wide")


@run.command()
def show(run_id: Id, as_json: AsJson = False) -> None:
    """Show a run: its state, its steps, what waits and what failed.

    Example:  ccat-wm run show latest
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, facts, pairs_text, when
    from ccat_workflow_manager.commands.run_tables import print_step_runs, status, took
    from ccat_workflow_manager.commands.watch import steps_table

    with connect() as client:
        found = client.run(run_id)
    if as_json:
        _print_json(found)
        return
    version = f" version {found['pipeline_version']}" if found["pipeline_version"] else ", inline definition"
    state = ", paused" if found["paused"] else ", being cancelled" if _cancelling(found) else ""
    out = console()
    out.print(
        facts(
            [
                ("run", found["id"]),
                ("pipeline", f"{found['pipeline']}{version}"),
                ("status", status(found) + state),
                ("reason", found["status_reason"]),
                ("parameters", pairs_text(found["parameters"])),
                ("labels", pairs_text(found["labels"], ":")),
                ("priority", found["priority"] or None),
                ("created (UTC)", when(found["created_at"])),
                ("took", took(found)),
                *(("caveat", each["text"]) for each in found.get("caveats", [])[:_NAMED_CAVEATS]),
            ]
        )
    )
    out.print(steps_table(found))
    print_step_runs(found)


@run.command()
def watch(run_id: Id, as_json: AsJson = False) -> None:
    """Show the progress of a run until it is finished.

    With --json the finished run is printed, and the progress goes to stderr.

    Example:  ccat-wm run watch latest

    Exit codes:  0 COMPLETED,  1 FAILED or CANCELLED,  2 no such run,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.watched_run import watch_to_end

    with connect() as client:
        watch_to_end(client, run_id, as_json=as_json)


@run.command()
def cancel(ids: Ids, as_json: AsJson = False) -> None:
    """Cancel runs and their jobs.

    A run is CANCELLED once its jobs are known to be gone; step runs that finish before that stay finished.

    Example:  ccat-wm run cancel latest
    """
    _each(ids, "cancel", _cancel_outcome, as_json)


@run.command()
def pause(ids: Ids, why: Why = "", until: Until = "", as_json: AsJson = False) -> None:
    """Hold back the step runs that are not launched yet; running ones continue.

    Example:  ccat-wm run pause latest --why "input is repaired" --until +2h
    """
    _each(ids, "pause", lambda _: "is paused", as_json, terms(why, until) or None)


@run.command()
def resume(ids: Ids, as_json: AsJson = False) -> None:
    """Resume paused runs.

    Example:  ccat-wm run resume latest
    """
    _each(ids, "resume", lambda _: "is resumed", as_json)


@run.command()
def priority(
    number: Annotated[
        int, typer.Argument(metavar="NUMBER", help="From -1000 to 1000; a higher one is launched first.")
    ],
    ids: Ids,
    why: Why = "",
    until: EndsAt = "",
    as_json: AsJson = False,
) -> None:
    """Set the priority of runs: it counts for what is not launched yet.

    Example:  ccat-wm run priority 100 latest --why "needed tonight" --until +8h
    """
    body = {"priority": number, **terms(why, until)}
    _each(ids, "priority", lambda _: f"has the priority {number}", as_json, body)


def _cancel_outcome(found: dict[str, Any]) -> str:
    if not found["finished_at"]:
        return "is being cancelled"
    status, stopped = found["status"], found["counts"].get("CANCELLED", 0)
    if status == "CANCELLED":
        return "is cancelled"
    return f"is {status}, {stopped} cancelled" if stopped else f"is {status}: nothing to cancel"


def _each(
    ids: list[str],
    verb: str,
    outcome: Callable[[dict[str, Any]], str],
    as_json: bool,
    body: Any = None,
) -> None:
    """Change each run. A refusal of one does not stop the others."""
    from ccat_workflow_manager.commands.client import each_run

    def change(client: Client, run_id: str) -> tuple[Any, str]:
        found = client.post(f"/runs/{run_id}/{verb}", body)
        return found, f"{run_id} {outcome(found)}"

    each_run(ids, change, as_json)


for _command in (retry, logs, products, download, compare, delete, replay):
    run.command()(_command)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    from ccat_workflow_manager.commands.output import print_json

    print_json(value)


def _cancelling(found: dict[str, Any]) -> bool:
    return bool(found["cancel_requested_at"]) and not found["finished_at"]
