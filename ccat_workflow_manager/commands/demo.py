"""`ccat-wm demo`: starts a deployment, runs a pipeline, and prints where its products are."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccat_workflow_manager.commands.exit_codes import ExitCode, exit_code
from ccat_workflow_manager.commands.startup import keep_files_private, set_up_log, starting
from ccat_workflow_manager.errors import WorkflowError

if TYPE_CHECKING:
    from ccat_workflow_manager.commands.client import Client
    from ccat_workflow_manager.settings import Settings
    from ccat_workflow_manager.supervise import Deployment

_LISTED = 12
_BEST_FIRST = ("PLOT", "SCIENCE", "STATISTICS", "QA_METRIC")


def demo(
    data_dir: Annotated[Path | None, typer.Option(help="Default: `ccat-wm-demo` below $XDG_DATA_HOME.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the service running until Ctrl-C.")] = False,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the API (default: a free one).")] = None,
    scans: Annotated[int | None, typer.Option(min=1, help="Number of scans to simulate and reduce.")] = None,
    backend: Annotated[str | None, typer.Option(help="Backend of the steps (default: HPC_BACKEND).")] = None,
) -> None:
    """Start a deployment, run a small observatory reduction, and print where its products are.

    The first run takes longer: it creates the databases and, with Apptainer, the container image.

    Example:  ccat-wm demo --scans 24 --keep

    Exit codes:  0 the run COMPLETED,  1 it did not,  2 wrong usage,  3 a service could not be started.
    """
    from ccat_workflow_manager.commands.output import console
    from ccat_workflow_manager.hpc import registry

    settings = _settings(data_dir, port, backend)
    registry.get_class(settings.hpc_backend)  # raises if there is no such backend, or names what it lacks
    log_file = settings.data_dir / "demo.log"
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    set_up_log(settings.log_level, log_file)
    keep_files_private()
    with starting():
        from ccat_workflow_manager.supervise import Deployment

        out = console()
        what = f"PostgreSQL, Valkey, a manager and {settings.workers} workers"
        out.print(f"Starting {what} in {settings.data_dir}", soft_wrap=True)
        deployment = Deployment(settings)
        try:
            deployment.start()
            completed = _run(deployment, scans)
            if keep:
                out.print(f"The dashboard stays at {deployment.api_url}; Ctrl-C stops the service.", soft_wrap=True)
                deployment.watch()
        except WorkflowError as error:
            if exit_code(error) is ExitCode.NO_SERVICE:
                typer.echo(f"the log of all processes is in {log_file}", err=True)
            raise
        finally:
            deployment.stop()
    if not completed:
        raise typer.Exit(ExitCode.WORK_FAILED)


def _settings(data_dir: Path | None, port: int | None, backend: str | None) -> Settings:
    from ccat_workflow_manager.commands.running import demo_data_dir
    from ccat_workflow_manager.settings import load_settings

    overrides = {"DATA_DIR": str(data_dir or demo_data_dir(os.environ)), "API_PORT": port, "HPC_BACKEND": backend}
    settings = load_settings(overrides)
    if port is None and not _is_free(settings.api_host, settings.api_port):
        return settings.model_copy(update={"api_port": 0})
    return settings


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


def _run(deployment: Deployment, scans: int | None) -> bool:
    from ccat_workflow_manager.commands.client import TOKEN_VARIABLE, Client
    from ccat_workflow_manager.commands.output import console
    from ccat_workflow_manager.commands.watch import summary, watch_run
    from ccat_workflow_manager.demo import demo_pipeline

    out = console()
    definition = demo_pipeline(_image(deployment.settings, out.print))
    pause = _watchful_pause(deployment)
    deployment.wait_ready()
    pause(0.001)
    with Client(deployment.api_url, os.environ.get(TOKEN_VARIABLE, "")) as client:
        client.put(f"/pipelines/{definition['name']}", definition)
        parameters = {} if scans is None else {"scans": [f"scan-{number:02}" for number in range(1, scans + 1)]}
        submitted = client.post("/runs", {"pipeline": definition["name"], "parameters": parameters})
        finished = watch_run(client, submitted["id"], out, pause=pause)
        completed = bool(finished["status"] == "COMPLETED")
        out.print(f"Run {finished['id']} of {finished['pipeline']}: {finished['status']}", soft_wrap=True)
        summary(finished, out)
        for line in _where(client, finished, deployment.settings):
            out.print(line, soft_wrap=True)
        out.print(f"API: {deployment.api_url}/api/v1/runs/{finished['id']}", soft_wrap=True)
        out.print(f"Dashboard: {deployment.api_url}/runs/{finished['id']}", soft_wrap=True)
    return completed


def _image(settings: Settings, inform: Callable[[str], object]) -> str | None:
    """The container image of the steps, built if needed; None without a container runtime."""
    from ccat_workflow_manager.demo import ensure_demo_image
    from ccat_workflow_manager.execution import runtime

    found = runtime.detect(settings.container_runtime, allow_none=settings.environment == "localdev")
    if not found.contained:
        why = "Containers are switched off" if settings.container_runtime == "none" else "No Apptainer found"
        inform(f"{why}: the steps run as plain processes.")
        return None
    inform(f"The steps run in containers of {found.kind} {found.version}.")
    return ensure_demo_image(str(settings.sif_cache_dir), found)


def _watchful_pause(deployment: Deployment) -> Callable[[float], None]:
    """Returns a function that watches the processes while it waits. It raises KeyboardInterrupt on a stop signal."""

    def pause(seconds: float) -> None:
        deployment.watch(seconds)
        if deployment.stopping:
            raise KeyboardInterrupt

    return pause


# --- where to look ---------------------------------------------------------------------------------------------------


def _where(client: Client, run: dict[str, Any], settings: Settings) -> list[str]:
    """Lines with the products of the last step, images first, and the directory of the run."""
    from ccat_workflow_manager.commands.watch import steps_of
    from ccat_workflow_manager.execution.layout import attempt_dirs

    def path_of(product: dict[str, Any]) -> str:
        names = (product["pipeline"], product["run_id"], product["step"], product["key"])
        return f"{attempt_dirs(str(settings.pipeline_base_dir), *names, product['attempt']).output}/{product['path']}"

    last = steps_of(run)[-1].step_runs
    products = [product for each in last for product in client.items(f"/step-runs/{each['id']}/products", None)]
    products.sort(key=_interest)
    lines = [f"  {product['type']:<12} {path_of(product)}" for product in products[:_LISTED]]
    directory = settings.pipeline_base_dir / run["pipeline"] / run["id"]
    return ["Products:", *lines, f"All of the run: {directory}"] if lines else [f"All of the run: {directory}"]


def _interest(product: dict[str, Any]) -> tuple[bool, bool, int, str]:
    kind = product["type"]
    return (
        not product["path"].endswith("map.png"),
        not product["path"].endswith(".png"),
        _BEST_FIRST.index(kind) if kind in _BEST_FIRST else len(_BEST_FIRST),
        product["name"],
    )
