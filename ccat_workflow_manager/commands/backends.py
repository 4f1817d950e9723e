"""`ccat-wm backends` and `ccat-wm backend`: the backends of this machine. They need no running service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import AsJson
from ccat_workflow_manager.commands.exit_codes import ExitCode, WrongUsage

if TYPE_CHECKING:
    from ccat_workflow_manager.settings import Settings
    from ccat_workflow_manager.testing.harness import BackendHarness

backend = typer.Typer(
    name="backend", no_args_is_help=True, help="Check one backend against the contract, or find the best one."
)

_ENDLESS_EXTRA: Mapping[str, Mapping[str, Any]] = {"noop": {"delay_seconds": 3600}}


def backends(as_json: AsJson = False) -> None:
    """List the backends: availability, capabilities, and what to install.

    Example:  ccat-wm backends
    """
    from ccat_workflow_manager.commands.output import console, print_json, table
    from ccat_workflow_manager.hpc import registry
    from ccat_workflow_manager.settings import load_settings

    found = [
        {"name": name, **asdict(availability), "capabilities": _capabilities(name)}
        for name, availability in registry.list_backends(load_settings().for_backend).items()
    ]
    if as_json:
        print_json(found)
        return
    rows = [
        (one["name"], "yes" if one["available"] else "no", _capability_words(one["capabilities"]),
         "; ".join(filter(None, (one["reason"], one["installation_hint"] if not one["available"] else ""))))
        for one in found
    ]  # fmt: skip
    console().print(table(("backend", "available", "capabilities", "reason and what to do"), rows))


def _capabilities(name: str) -> dict[str, bool] | None:
    from ccat_workflow_manager.errors import BackendError, ConfigurationError
    from ccat_workflow_manager.hpc import registry

    try:
        return asdict(registry.get_class(name).capabilities)
    except (BackendError, ConfigurationError):
        return None


def _capability_words(capabilities: dict[str, bool] | None) -> str:
    return ", ".join(name.replace("_", " ") for name, has in (capabilities or {}).items() if has)


@backend.command()
def detect(as_json: AsJson = False) -> None:
    """Print the first backend that can be used here, in the order slurm, pbs, kubernetes, local.

    Example:  ccat-wm backend detect

    Exit codes:  0 found,  3 no backend can be used.
    """
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.hpc import registry
    from ccat_workflow_manager.settings import load_settings

    name = registry.detect(load_settings().for_backend)
    if as_json:
        print_json({"name": name})
    else:
        typer.echo(name)


@backend.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a backend (`ccat-wm backends`).")],
    workdir: Annotated[
        Path | None, typer.Option(help="A directory that jobs see under the same path (default: PIPELINE_BASE_DIR).")
    ] = None,
    clause: Annotated[list[str] | None, typer.Option(help="Only this clause. May be repeated.")] = None,
    python: Annotated[
        str | None, typer.Option(help="Path of a Python 3 where jobs run (default: that of this command).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the contract suite against a backend with the present settings. It submits small real jobs.

    Example:  ccat-wm backend check slurm --workdir /data/contract-check

    Exit codes:  0 no clause failed,  1 a clause failed,  2 no such backend,  3 the backend cannot be used.
    """
    import shutil
    from tempfile import mkdtemp

    from ccat_workflow_manager.settings import load_settings
    from ccat_workflow_manager.testing.backend_contract import CLAUSES

    known = [each.name for each in CLAUSES]
    if unknown := [each for each in clause or () if each not in known]:
        raise WrongUsage(f"there is no clause {unknown[0]!r}; known: {', '.join(known)}")
    settings = load_settings()
    parent = workdir or settings.pipeline_base_dir
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = Path(mkdtemp(prefix=".contract-check-", dir=parent))
    except OSError as error:
        raise WrongUsage(f"{parent} cannot be used for the check: {error.strerror}") from error
    try:
        broken = _run_clauses(name, settings, directory, clause, python, as_json)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if broken:
        raise typer.Exit(ExitCode.WORK_FAILED)


def _run_clauses(
    name: str, settings: Settings, directory: Path, only: list[str] | None, python: str | None, as_json: bool
) -> int:
    from rich.text import Text

    from ccat_workflow_manager.commands.output import cell, console, print_json
    from ccat_workflow_manager.commands.terminal_text import plain
    from ccat_workflow_manager.testing.backend_contract import CLAUSES, iterate_contract

    chosen = tuple(each for each in CLAUSES if only is None or each.name in only)
    width = max(len(each.name) for each in chosen)
    results = []
    out = console(stderr=as_json)
    config = _config(name, settings, directory)
    for result in iterate_contract(name, config, directory, clauses=chosen, adjust=_adjusted(name, python)):
        results.append(result)
        outcome = str(result.outcome).replace("_", " ")
        line = Text.assemble(
            cell(f"{outcome:<12}", {"passed": "green", "failed": "bold red"}.get(outcome, "dim")),
            f"{result.clause:<{width}}  {plain(result.text)}",
        )
        out.print(line, soft_wrap=True)
    if as_json:
        print_json([{**asdict(each), "outcome": str(each.outcome)} for each in results])
    return sum(str(each.outcome) == "failed" for each in results)


def _adjusted(name: str, python: str | None) -> Callable[[BackendHarness], None]:
    """Sets the Python of the jobs, and how an endless job is requested from a backend that runs no programs."""

    def adjust(harness: BackendHarness) -> None:
        harness.python = python or harness.python
        harness.endless_extra = _ENDLESS_EXTRA.get(name, {})

    return adjust


def _config(name: str, settings: Settings, directory: Path) -> dict[str, Any]:
    """The arguments of the backend as in the service, with a separate state directory."""
    from ccat_workflow_manager.hpc import registry

    offered: dict[str, Any] = {
        "state_dir": str(directory / "state"),
        "pipeline_base_dir": str(settings.pipeline_base_dir),
        "sif_cache_dir": str(settings.sif_cache_dir),
        "redis_url": settings.redis_url or None,
        "kill_grace_seconds": settings.kill_grace_seconds,
        "log_limit_mb": settings.log_limit_mb,
        "disk_limit_gb": settings.disk_limit_gb,
        **settings.for_backend(name),
    }
    return registry.filtered(name, offered)
