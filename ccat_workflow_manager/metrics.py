"""What a process counts about itself, for Prometheus. `docs/metrics.md` lists every metric with its labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST
Source = Collector
"""Of metrics that are worked out when they are asked for."""
_REGISTRY = CollectorRegistry()
_PORTS_TRIED = 256

_HTTP_SECONDS = Histogram(
    "ccat_wm_http_seconds",
    "Seconds from a request to the begin of its response.",
    ["route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=_REGISTRY,
)
_SCHEDULER_CALLS = Counter(
    "ccat_wm_scheduler_calls", "Calls of a scheduler by this process.", ["backend", "command"], registry=_REGISTRY
)
_SCHEDULER_BUDGET = Gauge(
    "ccat_wm_scheduler_budget",
    "Calls a minute that all processes together may make.",
    ["backend"],
    registry=_REGISTRY,
)
_LOOP_LAG = Gauge(
    "ccat_wm_loop_lag_seconds", "How late the next turn of a loop of this manager is.", ["loop"], registry=_REGISTRY
)


_POOL = Gauge(
    "ccat_wm_pool_connections",
    "Connections of this process to PostgreSQL.",
    ["pool", "state"],
    registry=_REGISTRY,
)


class _OfProcess(Collector):
    """What this process counts itself."""

    def collect(self) -> Iterable[Metric]:
        return _REGISTRY.collect()


def http_answered(route: str, status: int, seconds: float) -> None:
    _HTTP_SECONDS.labels(route, str(status)).observe(seconds)


def scheduler_called(backend: str, command: str, per_minute: int) -> None:
    """Count one call that was taken from the budget of a scheduler."""
    _SCHEDULER_CALLS.labels(backend, command).inc()
    _SCHEDULER_BUDGET.labels(backend).set(per_minute)


def loop_started(name: str, lag: Callable[[], float]) -> None:
    """Report a loop from now on; `lag` is asked at each scrape."""
    _LOOP_LAG.labels(name).set_function(lag)


def pool_opened(name: str, used: Callable[[], int], idle: Callable[[], int]) -> None:
    """Report a pool of connections from now on."""
    _POOL.labels(name, "used").set_function(used)
    _POOL.labels(name, "idle").set_function(idle)


def exposition(*collectors: Source) -> bytes:
    """All metrics of this process and of these collectors as text."""
    return b"".join(generate_latest(each) for each in (_REGISTRY, *collectors))


def serve(host: str, port: int, *collectors: Source) -> Callable[[], None]:
    """Serve the metrics on this port, or on the next free one: a host may have several workers.

    Returns a function that ends this.
    """
    registry = CollectorRegistry()
    for each in (_OfProcess(), *collectors):
        registry.register(each)
    trouble: OSError | None = None
    for number in range(port, min(port + _PORTS_TRIED, 65536)):
        try:
            server, thread = start_http_server(number, addr=host, registry=registry)
        except OSError as error:
            trouble = error
        else:
            log.info("metrics are at http://%s:%d/metrics", host, number)
            return partial(_stop, server, thread)
    log.warning("metrics cannot be served at %s:%d: %s", host, port, trouble)
    return lambda: None


def _stop(server: WSGIServer, thread: Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
