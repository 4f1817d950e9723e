"""Requests: creating runs, many at once and one by one, and looking at them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.bench.client import hammer, message
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, at_least, at_most, middle, ratio_at_least
from tests.bench.http_reference import bare_endpoint
from tests.bench.sizes import Sizes


def bulk(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    """Only the creation is measured; what the workers then do with the runs is waited for between two rounds."""
    pipeline = there.add_pipeline()
    there.warm_up(pipeline)
    rates = []
    for _ in range(sizes.rounds):
        began = time.perf_counter()
        there.bulk(pipeline, sizes.bulk_runs)
        rates.append(sizes.bulk_runs / (time.perf_counter() - began))
        there.wait_idle()
    there.require_completed(sizes.bulk_runs * sizes.rounds)
    yield at_least(f"bulk create, {sizes.bulk_runs:,} runs in one call", middle(rates), "runs/s", 5000)


def post(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    """Once with the workers held still, once while they launch and complete what comes in, on the same two cores."""
    request = message("POST", "/api/v1/runs", {"pipeline": there.add_pipeline(), "labels": {"source": "Orion KL"}})
    bare_request = message("POST", "/rows", {"pipeline": "bench", "labels": {"source": "Orion KL"}})
    there.warm_up("bench")
    alone, busy, bare = [], [], []
    with bare_endpoint(there) as bare_port:
        hammer(bare_port, bare_request, sizes.posts // 4, sizes.connections)
        for _ in range(sizes.rounds):
            bare.append(hammer(bare_port, bare_request, sizes.posts, sizes.connections))
            with there.workers_stopped():
                alone.append(hammer(there.port, request, sizes.posts, sizes.connections))
            there.wait_idle()
            busy.append(hammer(there.port, request, sizes.posts, sizes.connections))
            there.wait_idle()
    there.require_completed(2 * sizes.posts * sizes.rounds)
    reference = ("bare endpoint", 0.5)
    what = f"POST /runs over {sizes.connections} connections"
    yield ratio_at_least(f"{what}, workers still", middle(alone), "runs/s", middle(bare), *reference)
    yield ratio_at_least(f"{what}, workers at work", middle(busy), "runs/s", middle(bare), *reference)


def listing(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    pipeline = there.add_pipeline()
    there.bulk(pipeline, sizes.stored_runs)
    there.wait_idle()
    there.require_completed(sizes.stored_runs)
    request = message("GET", "/api/v1/runs?status=COMPLETED&limit=100")
    milliseconds = []
    for _ in range(sizes.list_calls):
        began = time.perf_counter()
        answer = there.api.exchange(request)
        milliseconds.append((time.perf_counter() - began) * 1000)
    if len(answer.json()["items"]) != 100:
        raise RuntimeError(f"the list has {len(answer.json()['items'])} runs instead of 100")
    yield at_most(
        f"GET /runs?status=COMPLETED&limit=100, {sizes.stored_runs:,} runs stored", middle(milliseconds), "ms", 5
    )
