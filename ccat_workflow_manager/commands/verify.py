"""`ccat-wm verify`: whether what must be true of runs, products and jobs is true, on the database of this host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson, moment_before_now
from ccat_workflow_manager.commands.exit_codes import ExitCode

if TYPE_CHECKING:
    from ccat_workflow_manager.context import Context
    from ccat_workflow_manager.db.queries.verify import Finding
    from ccat_workflow_manager.services.verify_notes import Notes


def verify(
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs created since: 24h, 7d, or RFC 3339. Default: all.")
    ] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Read every product again. Else only those whose files were changed.")
    ] = False,
    share: Annotated[
        int,
        typer.Option(min=1, max=100, metavar="PERCENT", help="The part of the time in which it reads."),
    ] = 75,
    with_jobs: Annotated[
        bool, typer.Option("--jobs/--no-jobs", help="Compare live step runs with the records of their schedulers.")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the last verification was interrupted.")
    ] = False,
    repair_plan: Annotated[bool, typer.Option("--repair-plan", help="Print for each finding what repairs it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Verify the live deployment: moves, counters, dependencies, attempts, products, jobs. It changes nothing.

    Reads slices of 500 runs, each in one snapshot, so the service may go on meanwhile. Each scheduler is asked once, by
    a worker of its backend, or from here if none runs. A repair in SQL is for a service whose managers and workers are
    stopped.

    Example:  ccat-wm verify --since 7d --repair-plan

    Exit codes:  0 all is well,  1 there are findings,  2 bad input,  3 no database.
    """
    from ccat_workflow_manager.services.verify import Verification
    from ccat_workflow_manager.services.verify_notes import Notes, remember_verification

    earliest = None if since is None else _moment(since)
    with _deployment() as context:
        before = Notes.interrupted(context.settings.data_dir) if resume else None
        if resume and before is None:
            typer.echo("no verification was interrupted: this one begins with the first run", err=True)
        notes = before or Notes.new(context.settings.data_dir, earliest, checksums=checksums)
        for finding in notes.findings:
            _print(finding, as_json=as_json, repair_plan=repair_plan)
        base_dir = str(context.settings.pipeline_base_dir)
        verification = Verification(
            context.database,
            base_dir,
            checksums=notes.checksums,
            since=notes.since,
            share=share / 100,
            keep=notes.write,
        )
        jobs = context.job_verification
        for finding in chain(verification.findings(notes.progress), jobs.findings() if with_jobs else ()):
            notes.findings.append(finding)
            _print(finding, as_json=as_json, repair_plan=repair_plan)
        notes.remove()
        kinds = Counter(each.kind for each in notes.findings)
        remember_verification(context.doorbell, datetime.now(UTC).timestamp(), kinds)
    _report(notes, jobs.unchecked, as_json=as_json)
    if notes.findings:
        raise typer.Exit(ExitCode.WORK_FAILED)


def _print(finding: Finding, *, as_json: bool, repair_plan: bool) -> None:
    from ccat_workflow_manager.commands.terminal_text import plain

    if not as_json:
        typer.echo(plain(f"{finding.kind}: {finding}"))
        if repair_plan:
            typer.echo(plain(f"    {finding.repair}"))


def _report(notes: Notes, unchecked: Mapping[str, str], *, as_json: bool) -> None:
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.terminal_text import plain
    from ccat_workflow_manager.json_values import counted

    progress = notes.progress
    if as_json:
        print_json(
            {
                "runs": progress.runs,
                "products": progress.products,
                "findings": [asdict(each) for each in notes.findings],
                "unchecked_backends": unchecked,
            }
        )
        return
    for name, why in unchecked.items():
        typer.echo(plain(f"the jobs of {name} were not compared: {why}"), err=True)
    looked_at = f"{counted(progress.runs, 'run')} and {counted(progress.products, 'product')}"
    found = counted(len(notes.findings), "finding") if notes.findings else "no findings"
    typer.echo(f"{looked_at}: {found}", err=True)


@contextmanager
def _deployment() -> Iterator[Context]:
    """The deployment of this host, with its servers."""
    from ccat_workflow_manager.commands.startup import reachable, starting
    from ccat_workflow_manager.context import Context
    from ccat_workflow_manager.db.migrate import require_current
    from ccat_workflow_manager.settings import load_settings

    with starting(), reachable(load_settings()) as settings:
        context = Context(settings)
        try:
            require_current(context.database)
            yield context
        finally:
            context.close()


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(moment_before_now(text))
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
