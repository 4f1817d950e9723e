"""Slurm: what an array saves, what looking costs, and what the service adds to a bare `sbatch` loop.

python -m tests.bench.bench_slurm [--quick]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from rich.console import Console

from ccat_workflow_manager import shell
from ccat_workflow_manager.core.models import Resources
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import HPCBackend, JobRequest
from tests.bench.bench_running import to_the_end
from tests.bench.deployment import deployment, directory_for_all
from tests.bench.figures import Figure, at_most, ratio_at_least, show
from tests.reaper import Reaper
from tests.slurm.cluster import Cluster
from tests.waiting import wait_until

AT_ONCE = 4
FAN_OUT = {
    "name": "fan",
    "parameters": {"type": "object", "properties": {"keys": {"type": "array"}}},
    "steps": [
        {
            "name": "many", "foreach": "${parameters.keys}", "command": ["/bin/true"],
            "resources": {"cpu": 1, "memory_gb": 0.1},
        },
    ],
}  # fmt: skip


def slurm(parent: Path, *, submissions: int, tasks: int, held: tuple[int, int]) -> Iterator[Figure]:
    """On a private cluster of four nodes."""
    reaper = Reaper()
    cluster = Cluster(reaper)
    cluster.start()
    try:
        yield from _submitting(cluster, parent, submissions)
        yield from _looking(cluster, parent, held)
        yield from _end_to_end(cluster, parent, tasks)
    finally:
        cluster.close()
        reaper.reap()


def backend(cluster: Cluster, parent: Path) -> HPCBackend:
    return registry.create(
        "slurm",
        conf=str(cluster.conf),
        state_dir=str(parent / "state"),
        calls_per_minute=1_000_000,
        poll_seconds=0,
    )


def _requests(parent: Path, count: int, *, alike: bool) -> list[JobRequest]:
    """Jobs that wait for a day; not alike, each asks for a little more memory."""
    began = time.time_ns()
    begin = {"begin": "now+1day"}
    return [
        JobRequest(
            ["/bin/true"], None, None, "", "", str(parent / f"{began}-{n}" / "workspace"), "",
            Resources(memory_gb=0.1 + (0 if alike else n / 1024), extra=begin), {}, f"bench-{began}-{n}",
        )
        for n in range(count)
    ]  # fmt: skip


def _submitting(cluster: Cluster, parent: Path, count: int) -> Iterator[Figure]:
    there = backend(cluster, parent)
    rates = {}
    for alike in (True, False):
        requests = _requests(parent, count, alike=alike)
        began = time.perf_counter()
        results = there.submit_many(requests)
        rates[alike] = count / (time.perf_counter() - began)
        if not all(isinstance(result, str) for result in results):
            raise RuntimeError(f"not all were taken: {results[:3]}")
        cluster.drop_all()
    yield ratio_at_least(
        f"Slurm, {count} step runs submitted as arrays", rates[True], "jobs/s", rates[False], "one `sbatch` each", 10
    )


def _looking(cluster: Cluster, parent: Path, held: tuple[int, int]) -> Iterator[Figure]:
    there = backend(cluster, parent)
    for count in held:
        number = cluster.ask(
            "sbatch", "--parsable", "-H", "-o", "/dev/null", f"--array=0-{count - 1}", "--wrap", "true"
        )
        ids = [f"{number}_{index}:wrap" for index in range(count)]
        run = shell.run
        with mock.patch.object(shell, "run", side_effect=run) as counted:
            began = time.perf_counter()
            there.get_statuses(ids)
            seconds = time.perf_counter() - began
        yield at_most(f"Slurm, calls for one look at {count:,} jobs ({seconds:.2f} s)", counted.call_count, "calls", 2)
        cluster.drop_all()


def _bare(cluster: Cluster, count: int, *, array: bool) -> float:
    """Jobs a second of what the service would submit, without the service."""
    common = ("sbatch", "--parsable", "-o", "/dev/null", "-c", "1", "--mem", "103M")
    began = time.perf_counter()
    if array:
        cluster.ask(*common, f"--array=0-{count - 1}", "--wrap", "/bin/true")
    else:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda _: cluster.ask(*common, "--wrap", "/bin/true"), range(count)))
    wait_until(lambda: not cluster.ask("squeue", "-h", "-o", "%A"), 110, "an empty queue")
    return count / (time.perf_counter() - began)


def _end_to_end(cluster: Cluster, parent: Path, count: int) -> Iterator[Figure]:
    more = {"SLURM_CONF": str(cluster.conf), "SLURM_CALLS_PER_MINUTE": "100000", "FOLLOW_SECONDS": "1"}
    with deployment(parent, HPC_BACKEND="slurm", **more) as there:
        pipeline = there.add_pipeline(FAN_OUT)
        there.bulk(pipeline, 1, parameters={"keys": ["warm", "up"]})
        there.wait_idle()
        keys = [str(key) for key in range(count)]
        ours = count / to_the_end(there, pipeline, 1, parameters={"keys": keys})
    what = f"Slurm, a fan-out of {count} from the request to COMPLETED"
    yield ratio_at_least(what, ours, "jobs/s", _bare(cluster, count, array=False), "a bare `sbatch` loop", 0.9)
    yield ratio_at_least(what, ours, "jobs/s", _bare(cluster, count, array=True), "a bare array", 0.9)


def main() -> int:
    quick = "--quick" in sys.argv[1:]
    with directory_for_all() as parent:
        if quick:
            figures = list(slurm(parent, submissions=50, tasks=20, held=(10, 100)))
        else:
            figures = list(slurm(parent, submissions=1000, tasks=400, held=(10, 10_000)))
    show(Console(), "Slurm", figures)
    return 0 if all(figure.ok is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
