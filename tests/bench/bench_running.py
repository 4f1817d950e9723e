"""Running: from the request to COMPLETED."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event

from tests.bench.bench_machine import spawn_seconds
from tests.bench.client import message
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, at_least, at_most, middle, ratio_at_least, ratio_at_most
from tests.bench.rq_reference import rate, two_workers
from tests.bench.sizes import Sizes

_POLL_SECONDS = 0.001
_PAUSE = Event()
_COMPLETED = b'"status":"COMPLETED"'


def to_the_end(there: Deployment, pipeline: str, count: int, **more: object) -> float:
    """Seconds from the request for so many runs to the end of the last one."""
    began = time.perf_counter()
    there.bulk(pipeline, count, **more)
    there.wait_idle()
    return time.perf_counter() - began


def noop(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    pipeline = there.add_pipeline()
    there.warm_up(pipeline)
    seconds = [to_the_end(there, pipeline, sizes.noop_runs) for _ in range(sizes.rounds)]
    there.require_completed(sizes.noop_runs * sizes.rounds)
    yield at_least(
        f"noop, {sizes.noop_runs:,} runs created in bulk to all COMPLETED",
        sizes.noop_runs / middle(seconds),
        "runs/s",
        1000,
    )


def local(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    pipeline = there.add_pipeline()
    there.warm_up(pipeline, backend="local")
    ours, theirs = [], []
    with two_workers(f"{there.redis_url.partition('?')[0]}?db=1") as queue:
        for _ in range(sizes.rounds):
            theirs.append(rate(queue, sizes.local_runs))
            ours.append(sizes.local_runs / to_the_end(there, pipeline, sizes.local_runs, backend="local"))
    there.require_completed(sizes.local_runs * sizes.rounds)
    yield ratio_at_least(
        f"local, {sizes.local_runs:,} runs of /bin/true created in bulk to all COMPLETED",
        middle(ours),
        "runs/s",
        middle(theirs),
        "plain RQ, two SimpleWorkers",
        1.0,
    )


def lone(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    pipeline = there.add_pipeline()
    for backend in ("local", "noop"):
        there.warm_up(pipeline, backend=backend)
        request = message("POST", "/api/v1/runs", {"pipeline": pipeline, "backend": backend})
        milliseconds = [1000 * _lone_seconds(there, request) for _ in range(sizes.lone_runs)]
        command = 1000 * middle(spawn_seconds() for _ in range(sizes.lone_runs)) if backend == "local" else 0.0
        what = f"a lone run with {backend}, POST to COMPLETED at the client"
        yield at_most(f"{what}, on top of {command:.1f} ms", middle(milliseconds) - command, "ms", 30)


def _lone_seconds(there: Deployment, request: bytes) -> float:
    began = time.perf_counter()
    run_id = there.api.exchange(request).json()["id"]
    look = message("GET", f"/api/v1/runs/{run_id}")
    deadline = began + 30
    while _COMPLETED not in there.api.exchange(look).body.partition(b'"step_runs"')[0]:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"run {run_id} did not complete")
        _PAUSE.wait(_POLL_SECONDS)
    return time.perf_counter() - began


# --- fan-out ---------------------------------------------------------------------------------------------------------


def fan_out(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    """One run of many step runs beside as many runs of one step."""
    pipeline = there.add_pipeline()
    step = {"name": "each", "command": ["/bin/true"], "foreach": "${parameters.items}"}
    wide = there.add_pipeline(
        {"name": "wide", "parameters": {"type": "object", "properties": {"items": {"type": "array"}}}, "steps": [step]}
    )
    there.warm_up(pipeline)
    one_by_one, in_one, first, last = [], [], [], []
    for _ in range(sizes.rounds):
        one_by_one.append(to_the_end(there, pipeline, sizes.fan_out))
        in_one.append(to_the_end(there, wide, 1, parameters={"items": list(range(sizes.fan_out))}))
        early, late = _windows(there, sizes.window)
        first.append(early)
        last.append(late)
    there.require_completed((sizes.fan_out + 1) * sizes.rounds)
    per = 1e6 / sizes.fan_out
    yield ratio_at_most(
        f"a run of {sizes.fan_out:,} step runs, cost of each",
        middle(in_one) * per,
        "us",
        middle(one_by_one) * per,
        f"{sizes.fan_out:,} runs of one step",
        1.0,
    )
    yield ratio_at_least(
        f"its last {sizes.window:,} completions",
        middle(last),
        "/s",
        middle(first),
        f"its first {sizes.window:,}",
        1.0,
    )


def _windows(there: Deployment, window: int) -> tuple[float, float]:
    """Completions per second in the newest run: of the first so many, and of the last so many.

    Completions come in batches that share a moment, so a window begins and ends with the end of a batch.
    """
    rows = there.sql.execute(
        "SELECT extract(epoch FROM finished_at)::float8, sum(count(*)) OVER (ORDER BY finished_at)::int FROM step_runs"
        " WHERE run_id = (SELECT id FROM runs ORDER BY id DESC LIMIT 1) GROUP BY finished_at ORDER BY finished_at"
    ).fetchall()
    (began, at_first), (ended, total) = rows[0], rows[-1]
    moment, done = next(row for row in rows if row[1] >= min(at_first + window, total))
    early = (done - at_first) / (moment - began)
    moment, done = next(row for row in reversed(rows) if row[1] <= max(total - window, at_first))
    return early, (total - done) / (ended - moment)
