"""What pages, queries and loops cost with many runs and with few, side by side in one run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import quantiles
from typing import Any

import psycopg
from fastapi.testclient import TestClient

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.processes import loops
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.settings import load_settings

_CALLS = 20
_SINCE = "2026-06-01T00:00:00Z"
PATHS = (
    "/", "/runs", "/runs?status=FAILED", "/runs?status=RUNNING", "/runs?pipeline=chai-map",
    "/runs?label=source:source-3", "/runs?label=campaign:rare", "/runs?label=no:such", "/runs?q=source-17",
    "/runs?reason=converge", "/runs?by=astrid", "/runs?created=24h", "/runs?pipeline=chai-map&status=FAILED",
    "/runs?cursor=%run_id%", "/runs?after=%run_id%", "/runs/%run_id%", "/step-runs/%step_run_id%", "/pipelines",
    "/pipelines/chai-map", "/products", "/products/%product_id%", "/backends", "/workers", "/events", "/audit",
    "/audit?actor=astrid", "/go?q=%job_id%", "/go?q=source:source-3", "/go?q=nothing",
    "/api/v1/dashboard/summary", "/api/v1/dashboard/timeseries?span=1h", "/api/v1/dashboard/timeseries?span=24h",
    "/api/v1/dashboard/timeseries?span=90d", "/api/v1/dashboard/attention", "/api/v1/pipelines/chai-map/stats",
    "/api/v1/runs", "/api/v1/runs?status=COMPLETED", "/api/v1/runs?project=gevas",
    f"/api/v1/runs?created_after={_SINCE}", f"/api/v1/runs?created_before={_SINCE}",
    f"/api/v1/runs?created_after={_SINCE}&status=FAILED", "/api/v1/runs?caveats=true", "/api/v1/runs/%run_id%",
    "/api/v1/runs/%run_id%/explain", "/api/v1/step-runs/%step_run_id%", "/api/v1/step-runs/%step_run_id%/events",
    "/api/v1/step-runs/%step_run_id%/attempts", "/api/v1/explain?group=cause",
    "/api/v1/pipelines/chai-map/ledger", "/api/v1/pipelines/chai-map/ledger?label=night:2026-06-01",
    "/api/v1/products/%product_id%/lineage", "/api/v1/events", "/api/v1/events?run=%run_id%",
    "/api/v1/events?type=ccat.wm.run.*", "/api/v1/audit", "/api/v1/attention", "/api/v1/backends", "/metrics",
)  # fmt: skip
"""The addresses that are measured."""
_OLD_RUN = """
SELECT s.run_id::text AS run_id, s.id::text AS step_run_id, a.job_id, p.id::text AS product_id FROM runs r
JOIN step_runs s ON s.run_id = r.id JOIN attempts a ON a.step_run_id = s.id JOIN products p ON p.step_run_id = s.id
WHERE r.pipeline = 'chai-map' AND r.status = 'FAILED' ORDER BY r.id LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """The 95th percentile of one call, in milliseconds, with many and with few runs."""

    what: str
    many: float
    few: float


def measure(many: str, few: str, redis_url: str) -> Iterator[Cost]:
    """Everything that a reader, and each loop of a manager, asks of a database."""
    sites = [_site(url, redis_url) for url in (many, few)]
    for name in [loop.name for loop in loops(sites[0].context)]:
        ticks = [next(loop.tick_once for loop in loops(site.context) if loop.name == name) for site in sites]
        yield Cost(f"loop {name}", *(_p95(tick) for tick in ticks))
    for path in PATHS:
        yield Cost(path, *(_p95(partial(_get, site, path)) for site in sites))
    for site in sites:
        site.client.__exit__(None, None, None)
        site.context.close()


@dataclass
class _Site:
    context: Context
    client: TestClient
    names: dict[str, str]


def _site(url: str, redis_url: str) -> _Site:
    context = Context(load_settings({"DATABASE_URL": url, "REDIS_URL": redis_url, "HPC_BACKEND": "noop"}))
    app = create_app(context)
    app.state.answers = Answers(longest=0)
    client = TestClient(app, base_url="http://localhost", follow_redirects=False)
    client.__enter__()
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("DELETE FROM workers")  # nobody shall wait for an answer of invented ones
        cursor = connection.execute(_OLD_RUN)
        row, columns = cursor.fetchone(), cursor.description
    assert row is not None
    assert columns is not None
    return _Site(context, client, {column.name: value for column, value in zip(columns, row, strict=True)})


def _get(site: _Site, path: str) -> None:
    found = re.sub(r"%(\w+)%", lambda match: site.names[match[1]], path)
    answer = site.client.get(found)
    if answer.status_code >= 400:
        raise RuntimeError(f"{found}: {answer.status_code} {answer.text[:500]}")


def _p95(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000 * quantiles(times, n=20)[-1]
