"""The two processes of a deployment, manager and worker, from start to orderly end."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from ccat_workflow_manager import failpoints, tasks, watchdog
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.migrate import require_current
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.doorbell import required
from ccat_workflow_manager.errors import BackendError, WorkflowError
from ccat_workflow_manager.execution import runtime
from ccat_workflow_manager.lifecycle.models import What
from ccat_workflow_manager.listener import listen
from ccat_workflow_manager.services import presence
from ccat_workflow_manager.services.breakers import Breakers
from ccat_workflow_manager.services.deletion import Deletions, Retention
from ccat_workflow_manager.settings import Settings

if TYPE_CHECKING:
    from ccat_workflow_manager.db.session import Database
    from ccat_workflow_manager.managers.schedule import Loop
    from ccat_workflow_manager.metrics import Source

log = logging.getLogger(__name__)

_JOIN_SECONDS = 10
_QUEUES_SECONDS = 10
"""A new backend is asked for its queues within so many seconds."""
_FIGURES_SECONDS = 1
_STATISTICS_SECONDS = 2
_HISTORY_SECONDS = 3600
_RETENTION_SECONDS = 60
_DELETIONS_SECONDS = 10
_WEBHOOKS_SECONDS = 1
_WAITING = "waiting for work"
_IDLE_SECONDS = 60
"""Beyond HANG_SECONDS: a worker without work is silent for some seconds at a time."""
_BURST_SECONDS = 0.01
_GATHER_SECONDS = 0.03
_HOLDS_SECONDS = 2.0
_PRESENCE_SECONDS = 5.0
_DISKS_SECONDS = 15.0


def loops(context: Context) -> list[Loop]:
    """All loops of a manager. Any number of managers may run them at the same time."""
    from ccat_workflow_manager.managers.loops import (  # a worker has no loops
        FiguresLoop,
        HistoryLoop,
        LeaseSweep,
        OrphansLoop,
        PollLoop,
        QueuesLoop,
        RequeueSweep,
        StatisticsLoop,
        Workloads,
    )
    from ccat_workflow_manager.managers.schedule import Loop

    settings, database, doorbell = context.settings, context.loop_database, context.doorbell
    breakers = Breakers(database, doorbell, context.breaker_policy)
    ask_seconds = min(1.0, settings.follow_seconds)
    workloads = Workloads(database, min(ask_seconds, settings.dispatch_seconds) / 2)
    history = HistoryLoop(database, settings.events_keep_months, settings.audit_keep_months)
    keep = {
        What.RUN: settings.keep_runs_days,
        What.WORKSPACES: settings.keep_workspaces_days,
        What.FAILED_OUTPUT: settings.keep_failed_output_days,
    }
    reap = [Loop("reap", settings.reaper_seconds, OrphansLoop(database, doorbell).tick)]
    return [
        *(reap if settings.reaper_seconds else ()),
        Loop("dispatch", settings.dispatch_seconds, RequeueSweep(database, doorbell, workloads).tick),
        Loop("sweep", settings.sweep_seconds, LeaseSweep(database, doorbell, settings.max_worker_deaths).tick),
        Loop("queues", _QUEUES_SECONDS, QueuesLoop(database, doorbell).tick),
        Loop("figures", _FIGURES_SECONDS, FiguresLoop(database).tick),
        Loop("statistics", _STATISTICS_SECONDS, StatisticsLoop(database).tick),
        Loop("history", _HISTORY_SECONDS, history.tick),
        Loop("retention", _RETENTION_SECONDS, Retention(database, keep).tick),
        Loop("deletions", _DELETIONS_SECONDS, Deletions(database, doorbell).advance),
        Loop("webhooks", _WEBHOOKS_SECONDS, context.webhooks.tick),
        Loop("forget deliveries", _HISTORY_SECONDS, context.webhooks.forget),
        Loop("breakers", settings.sweep_seconds, breakers.sweep),
        Loop("overrides", _HOLDS_SECONDS, context.overrides.sweep),
        Loop("presence", _PRESENCE_SECONDS, partial(presence.report, doorbell, context.worker)),
        Loop("disks", _DISKS_SECONDS, context.disks.look),
        Loop("follow", ask_seconds, PollLoop(workloads, doorbell, settings.follow_seconds).tick),
    ]


def run_manager(settings: Settings, *, api: bool = True, with_loops: bool = True) -> None:
    """REST API and control loops until SIGTERM or SIGINT."""
    from ccat_workflow_manager.managers.schedule import Schedule

    failpoints.enter("manager")
    context = Context(settings, statement_seconds=settings.statement_seconds)
    require_current(context.database)
    context.metrics.start_counting()
    _report_pools(api=context.database, loops=context.loop_database)
    stop_metrics = _serve_metrics(settings, context.metrics, context.doorbell_metrics) if not api else None
    running = Schedule(loops(context)) if with_loops else None
    if running is not None:
        running.start()
    try:
        if api:
            from ccat_workflow_manager.http_server import serve

            serve(context, graceful_seconds=_JOIN_SECONDS)
        else:
            _wait_for_signal()
    finally:
        if running is not None:
            running.stop()
            running.join(_JOIN_SECONDS)
        if stop_metrics is not None:
            stop_metrics()
        if running is not None:
            context.webhooks.stop()
            presence.forget(context.doorbell, context.worker)
        context.close()


def _wait_for_signal() -> None:
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    stop.wait()


def run_worker(settings: Settings, backends: Sequence[str], page: watchdog.Page | None = None) -> None:
    """Serve these backends until SIGTERM or SIGINT. The current task is finished first.

    A worker that hangs ends itself. Its parent process sees by `page` that even that fails.
    """
    failpoints.enter("worker")
    context = Context(settings, backends=tuple(backends))
    require_current(context.database)
    # A configured container runtime that is missing stops the worker here, and not at the first launch.
    allow_none = settings.environment == "localdev"
    if not context.runtime.contained and runtime.falls_back(settings.container_runtime, allow_none=allow_none):
        log.warning("%s", runtime.FELL_BACK)
    tasks.bind(context)
    context.collector.start_thread()
    watchdog.start(settings.hang_seconds, page)
    watchdog.report(_WAITING, _IDLE_SECONDS)
    context.heartbeat.beat()
    if settings.metrics_port:
        _report_pools(worker=context.database)
    stop_metrics = _serve_metrics(settings)
    stops = [stop for stop in (_subscribe(context, name) for name in context.backends) if stop is not None]
    log.info("worker %s serves %s", context.worker, ", ".join(context.backends))
    gc.freeze()  # so that no collection looks again at what lives as long as the process
    try:
        with required():
            listen(
                settings.redis_url,
                context.backends,
                name=context.worker,
                on_alive=partial(_report_alive, context),
                is_drained=lambda: context.heartbeat.is_drained,
            )
    finally:
        for stop in stops:
            stop()
        stop_metrics()
        watchdog.stop()
        context.collector.stop_thread()
        try:
            with context.database.begin("commit.gone") as unit:
                WorkerStore(unit).remove(context.worker)
        except WorkflowError as error:
            log.warning("the worker could not sign off: %s", error.message)
        context.close()


def _serve_metrics(settings: Settings, *collectors: Source) -> Callable[[], None]:
    """Serve the metrics of this process if there is a port for them. Returns a function that ends this."""
    if not settings.metrics_port:
        return lambda: None
    from ccat_workflow_manager import metrics

    return metrics.serve(settings.metrics_host, settings.metrics_port, *collectors)


def _report_pools(**databases: Database) -> None:
    from ccat_workflow_manager import metrics  # which a worker without a port does not need

    for name, database in databases.items():
        pool = database.pool
        metrics.pool_opened(name, partial(getattr, pool, "used"), partial(getattr, pool, "idle"))


class _Notices:
    """Reports ended jobs to the doorbell, and slows down the thread of the backend during a burst.

    Further ends gather in the backend meanwhile and are reported together.
    """

    def __init__(self, report: Callable[[Sequence[str]], None]) -> None:
        self._report = report
        self._last = 0.0

    def __call__(self, job_ids: Sequence[str]) -> None:
        try:
            self._report(job_ids)
        except Exception:  # the tick of a loop: the thread of the backend would report no further job
            log.exception("the end of %d jobs could not be reported", len(job_ids))
        if time.monotonic() - self._last < _BURST_SECONDS:
            time.sleep(_GATHER_SECONDS)
        self._last = time.monotonic()


def _subscribe(context: Context, name: str) -> Callable[[], None] | None:
    """Have the backend report ended jobs. Returns a function that ends this, or None if the backend cannot report."""
    try:
        backend = context.backend(name)
        if not backend.capabilities.notifies:
            return None
        return backend.listen(_Notices(partial(context.doorbell.notice, name)))
    except BackendError as error:
        log.warning("%s cannot be used now: %s", name, error.message)
        return None


def _report_alive(context: Context) -> None:
    """Record a sign of life. The worker survives a database that is down."""
    watchdog.report(_WAITING, _IDLE_SECONDS)
    try:
        context.collector.clean_up()
        context.heartbeat.beat()
    except WorkflowError as error:
        log.warning("no sign of life could be recorded: %s", error.message)
