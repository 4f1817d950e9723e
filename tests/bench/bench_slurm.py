"""Slurm: what an array saves, what looking costs, and what the service adds to bare jobs.

python -m tests.bench slurm [--quick]
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from unittest import mock

from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from ccat_workflow_manager.hpc.base import HPCBackend, JobRequest
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import ArrayTask
from ccat_workflow_manager.lifecycle.models import Resources
from tests.backends.slurm.cluster import Cluster
from tests.backends.slurm.shims import noting_calls
from tests.bench.bench_running import to_the_end
from tests.bench.deployment import Deployment, deployment
from tests.bench.figures import Figure, middle, ratio_at_least, ratio_at_most, told
from tests.bench.sizes import Sizes
from tests.support.reaper import Reaper
from tests.support.waiting import wait_for

AT_ONCE = 4
_LOOK_SECONDS = 0.2
_PAUSE = Event()
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
TOMORROW = {
    **FAN_OUT,
    "name": "tomorrow",
    "steps": [{**FAN_OUT["steps"][0], "resources": {"memory_gb": 0.1, "extra": {"begin": "now+1day"}}}],  # type: ignore[index]
}
"""Its jobs stay in the queue."""


def slurm(parent: Path, sizes: Sizes) -> Iterator[Figure]:
    """On a private cluster of four nodes."""
    reaper = Reaper()
    cluster = Cluster(reaper)
    try:
        cluster.start()
        yield from _submitting(cluster, parent, sizes.slurm_submissions, sizes.rounds)
        yield from _end_to_end(cluster, parent, sizes.slurm_tasks, sizes.rounds)
        yield from _looking(cluster, parent, sizes)
    finally:
        cluster.close()
        reaper.reap()


# --- submitting ------------------------------------------------------------------------------------------------------


def _backend(cluster: Cluster, parent: Path) -> HPCBackend:
    state = str(parent / "state")
    return registry.create("slurm", conf=str(cluster.conf), state_dir=state, calls_per_minute=1_000_000, poll_seconds=0)


def _requests(parent: Path, count: int, *, alike: bool) -> list[JobRequest]:
    """Jobs that wait for a day, in directories as they are staged; not alike, each asks for a little more memory."""
    began = time.time_ns()
    for n in range(count):
        for name in ("workspace", "logs"):
            (parent / f"{began}-{n}" / name).mkdir(parents=True)
    begin = {"begin": "now+1day"}
    return [
        JobRequest(
            ["/bin/true"], None, None, "", "", str(parent / f"{began}-{n}" / "workspace"), "",
            Resources(memory_gb=0.1 + (0 if alike else n / 1024), extra=begin), {}, f"bench-{began}-{n}",
        )
        for n in range(count)
    ]  # fmt: skip


def _submitting(cluster: Cluster, parent: Path, count: int, rounds: int) -> Iterator[Figure]:
    there = _backend(cluster, parent)
    script = parent / "bare.sh"
    script.write_text("#!/bin/sh\nexec /bin/true\n")
    arrays, one_each, bare = [], [], []
    for _ in range(rounds):
        arrays.append(_handed_over(cluster, there, _requests(parent, count, alike=True)))
        one_each.append(_handed_over(cluster, there, _requests(parent, count, alike=False)))
        began = time.perf_counter()
        for _ in range(count):
            cluster.ask("sbatch", "--parsable", "--begin=now+1day", "--mem=103M", "-o", "/dev/null", str(script))
        bare.append(count / (time.perf_counter() - began))
        cluster.drop_all()
    what = f"Slurm, {count:,} step runs handed over as arrays"
    yield ratio_at_least(what, middle(arrays), "jobs/s", middle(bare), f"{count:,} bare `sbatch` calls", 10)
    yield told(what, middle(arrays), "jobs/s", middle(one_each), "one `sbatch` each, 4 at a time")


def _handed_over(cluster: Cluster, there: HPCBackend, requests: Sequence[JobRequest]) -> float:
    """Jobs a second."""
    began = time.perf_counter()
    results = there.submit_many(requests)
    seconds = time.perf_counter() - began
    if not all(isinstance(result, str) for result in results):
        raise RuntimeError(f"not all were taken: {results[:3]}")
    cluster.drop_all()
    return len(requests) / seconds


# --- end to end ------------------------------------------------------------------------------------------------------


def _end_to_end(cluster: Cluster, parent: Path, count: int, rounds: int) -> Iterator[Figure]:
    """All three in turn, each as often first: the controller gets slower with every job that it remembers."""
    keys = [str(key) for key in range(count)]
    ours: list[float] = []
    one_by_one: list[float] = []
    arrays: list[float] = []
    with deployment(parent, HPC_BACKEND="slurm", **_settings(cluster)) as there:
        pipeline = there.add_pipeline(FAN_OUT)
        there.bulk(pipeline, 1, parameters={"keys": ["warm", "up"]})
        there.wait_idle()
        for number in range(rounds):
            turns = (
                lambda: ours.append(count / to_the_end(there, pipeline, 1, parameters={"keys": keys})),
                lambda n=number: one_by_one.append(_bare(cluster, parent / f"bare-{n}", count, array=False)),
                lambda n=number: arrays.append(_bare(cluster, parent / f"array-{n}", count, array=True)),
            )
            for turn in range(len(turns)):
                turns[(number + turn) % len(turns)]()
        there.require_completed(1 + rounds)
    what = f"Slurm, a fan-out of {count:,} from the request to COMPLETED"
    yield ratio_at_least(what, middle(ours), "jobs/s", middle(one_by_one), "the same scripts by `sbatch` alone", 0.9)
    yield ratio_at_least(what, middle(ours), "jobs/s", middle(arrays), "the same scripts as one bare array", 0.9)


def _settings(cluster: Cluster) -> dict[str, str]:
    return {"SLURM_CONF": str(cluster.conf), "SLURM_CALLS_PER_MINUTE": "100000", "FOLLOW_SECONDS": "1"}


def _bare(cluster: Cluster, directory: Path, count: int, *, array: bool) -> float:
    """Jobs a second of what the service would submit, without the service, from the scripts to the empty queue."""
    members = [ArrayTask(f"bare-{n}", str(directory / str(n) / "workspace")) for n in range(count)]
    for member in members:
        Path(member.workspace).mkdir(parents=True)
        text = render_job_script(["/bin/true"], environment={}, cwd=member.workspace, files=member.files)
        write_script(member.files, text)
    common = ("sbatch", "--parsable", "--no-requeue", "-o", "/dev/null", "-c", "1", "--mem", "103M")
    scripts = [_script(directory / "array.sh", members, array=True)] if array else [
        _script(directory / f"{n}.sh", [member], array=False) for n, member in enumerate(members)
    ]  # fmt: skip
    began = time.perf_counter()
    if array:
        cluster.ask(*common, f"--array=0-{count - 1}", *scripts)
    else:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda script: cluster.ask(*common, script), scripts))
    wait_for(lambda: not cluster.ask("squeue", "-h", "-o", "%A"), 110, "an empty queue", _LOOK_SECONDS)
    seconds = time.perf_counter() - began
    if not all(Path(member.files.record).exists() for member in members):
        raise RuntimeError("not all bare jobs have run")
    return count / seconds


def _script(path: Path, members: Sequence[ArrayTask], *, array: bool) -> str:
    text = render_batch_script(
        members,
        number="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}",
        index='"$SLURM_ARRAY_TASK_ID"' if array else None,
        home=pwd.getpwuid(os.geteuid()).pw_dir,
    )
    path.write_text(text)
    return str(path)


# --- looking ---------------------------------------------------------------------------------------------------------


def _looking(cluster: Cluster, parent: Path, sizes: Sizes) -> Iterator[Figure]:
    """Calls of Slurm's programs while jobs wait, a few and very many."""
    noting_calls(parent / "noting" / "programs")
    few, many = sizes.slurm_held
    a_few, very_many = (_calls_a_minute(cluster, parent, count, sizes.slurm_seconds) for count in (few, many))
    what = f"Slurm, calls for looking at {many:,} jobs"
    yield ratio_at_most(what, very_many, "calls/min", a_few, f"at {few:,} jobs", 1.1)


def _calls_a_minute(cluster: Cluster, parent: Path, count: int, seconds: float) -> float:
    path = f"{parent / 'noting' / 'programs'}{os.pathsep}{os.environ['PATH']}"
    with (
        mock.patch.dict(os.environ, PATH=path),
        deployment(parent, HPC_BACKEND="slurm", **_settings(cluster)) as there,
    ):
        pipeline = there.add_pipeline(TOMORROW)
        there.bulk(pipeline, 1, parameters={"keys": [str(key) for key in range(count)]})
        wait_for(lambda: _submitted(there) == count, 500, f"{count} jobs to be submitted", _LOOK_SECONDS)
        calls = parent / "noting" / "calls"
        before, began = len(calls.read_text().split()), time.perf_counter()
        _PAUSE.wait(seconds)
        rate = (len(calls.read_text().split()) - before) / (time.perf_counter() - began) * 60
    cluster.drop_all()
    return rate


def _submitted(there: Deployment) -> int:
    row = there.sql.execute("SELECT count(*) FROM step_runs WHERE status = 'SUBMITTED'").fetchone()
    return row[0] if row is not None else 0
