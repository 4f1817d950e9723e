"""Measure what is promised, and print one table.

    python -m tests.bench [NAMES...] [--quick]

Every figure comes with what it is held against, measured in the same minutes on the same machine. PostgreSQL writes
through to the disk (fsync), and there are one manager and two workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.execution import runtime
from tests.bench.bench_backends import backends
from tests.bench.bench_containers import containers
from tests.bench.bench_costs import costs
from tests.bench.bench_identity import identity
from tests.bench.bench_idle import idle
from tests.bench.bench_machine import machine
from tests.bench.bench_programs import programs
from tests.bench.bench_recovery import recovery
from tests.bench.bench_requests import bulk, listing, post
from tests.bench.bench_running import fan_out, local, lone, noop
from tests.bench.bench_slurm import slurm
from tests.bench.bench_streams import dashboards, streams
from tests.bench.deployment import Deployment, deployment, directory_for_all
from tests.bench.figures import Figure, show
from tests.bench.sizes import FULL, QUICK, Sizes
from tests.parts import found

Bench = Callable[[Deployment, Sizes], Iterator[Figure]]
BENCHES: dict[str, Bench] = {
    "machine": machine,
    "bulk": bulk,
    "post": post,
    "list": listing,
    "identity": identity,
    "noop": noop,
    "fan-out": fan_out,
    "local": local,
    "lone": lone,
    "costs": costs,
    "idle": idle,
    "recovery": recovery,
    "streams": streams,
    "dashboards": dashboards,
}
CONTAINERS = "containers"
SLURM = "slurm"
BACKENDS = "backends"
PROGRAMS = "programs"


def measure(names: Sequence[str], sizes: Sizes) -> list[Figure]:
    """Each bench has a deployment of its own: what one leaves behind does not weigh on the next."""
    chosen = [name for name in names if name in BENCHES]
    groups = [chosen] if sizes.one_for_all and chosen else [[name] for name in chosen]
    figures: list[Figure] = []
    with directory_for_all() as parent:
        for group in groups:
            with deployment(parent) as there:
                for name in group:
                    print(f"{name} ...", flush=True)
                    figures += BENCHES[name](there, sizes)
        if CONTAINERS in names:
            print(f"{CONTAINERS} ...", flush=True)
            figures += _contained(parent, sizes)
        if SLURM in names:
            print(f"{SLURM} ...", flush=True)
            figures += _on_slurm(parent, sizes)
        if BACKENDS in names:
            print(f"{BACKENDS} ...", flush=True)
            figures += backends(parent, sizes)
        if PROGRAMS in names:
            print(f"{PROGRAMS} ...", flush=True)
            figures += programs(sizes)
    return figures


def _contained(parent: Path, sizes: Sizes) -> list[Figure]:
    try:
        runs = runtime.detect("auto", allow_none=False)
    except ConfigurationError as error:
        print(f"  left out: {error.message}")
        return []
    with deployment(parent, CONTAINER_RUNTIME="auto", HPC_BACKEND="local") as there:
        return list(containers(there, sizes, runs))


def _on_slurm(parent: Path, sizes: Sizes) -> list[Figure]:
    if found("slurm") is None:
        print("  left out: no Slurm on this machine (`make lab` installs it)")
        return []
    return list(slurm(parent, sizes))


def main() -> None:
    known = [*BENCHES, CONTAINERS, SLURM, BACKENDS, PROGRAMS]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure what is promised.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(known)}; else all")
    parser.add_argument("--quick", action="store_true", help="tiny numbers: shows only that the benches work")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    figures = measure(arguments.names or known, QUICK if arguments.quick else FULL)
    show(Console(width=200), "quick: the figures mean nothing" if arguments.quick else "", figures)


if __name__ == "__main__":
    main()
