"""How much each bench does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of the real thing; `QUICK` only shows that the benches themselves work."""

    rounds: int = 3
    bulk_runs: int = 5000
    posts: int = 2000
    connections: int = 16
    noop_runs: int = 5000
    local_runs: int = 2000
    lone_runs: int = 100
    idle_seconds: float = 25
    stored_runs: int = 10_000
    list_calls: int = 200
    containers: int = 40
    fan_out: int = 10_000
    window: int = 1000
    commits: int = 2000
    spawns: int = 500
    slurm_submissions: int = 1000
    slurm_tasks: int = 1000
    slurm_held: tuple[int, int] = (10, 10_000)
    slurm_seconds: float = 30
    backend_jobs: tuple[int, int] = (10, 1000)
    backend_looks: int = 5
    program_workflows: int = 1024
    program_tasks: int = 1000
    program_nothing: int = 20_000
    streams: int = 500
    lone_changes: int = 10
    dashboards: int = 200
    dashboard_rates: tuple[int, ...] = (0, 5, 20)
    dashboard_seconds: float = 10
    worker_deaths: int = 3
    server_deaths: int = 3
    one_for_all: bool = False
    """All benches use one deployment, one after the other."""


FULL = Sizes()
QUICK = Sizes(
    rounds=1,
    bulk_runs=50,
    posts=40,
    connections=4,
    noop_runs=50,
    local_runs=10,
    lone_runs=3,
    idle_seconds=0.5,
    stored_runs=100,
    list_calls=5,
    containers=2,
    fan_out=1000,
    window=100,
    commits=20,
    spawns=5,
    slurm_submissions=50,
    slurm_tasks=20,
    slurm_held=(5, 100),
    slurm_seconds=2,
    backend_jobs=(2, 10),
    backend_looks=2,
    program_workflows=5,
    program_tasks=5,
    program_nothing=50,
    streams=5,
    lone_changes=2,
    dashboards=3,
    dashboard_rates=(5,),
    dashboard_seconds=1,
    worker_deaths=0,
    server_deaths=1,
    one_for_all=True,
)
