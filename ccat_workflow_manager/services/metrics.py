"""Metrics that come from the database and from Redis: the same in every manager."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ccat_workflow_manager.db.queries import metrics as queries
from ccat_workflow_manager.db.queries.feed import Place, head
from ccat_workflow_manager.db.queries.metrics import Ended, Waiting
from ccat_workflow_manager.db.queries.verify import KINDS
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import ServiceUnavailable, WorkflowError
from ccat_workflow_manager.lifecycle.states import Status
from ccat_workflow_manager.services.verify_notes import VERIFICATION

log = logging.getLogger(__name__)

OTHER = "_other"
"""The pipeline and the step in place of further ones, so that the number of series stays bounded."""
_MOST_STEPS = 1000
_MOST_PAGES = 5
_REST = 20
"""So many times as long as reading the numbers took they are not read again."""
_BUCKETS = (1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, 604800.0)


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        number = next((n for n, bound in enumerate(_BUCKETS) if seconds <= bound), len(_BUCKETS))
        self.counts[number] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        found, so_far = [], 0
        for bound, count in zip([*map(str, _BUCKETS), "+Inf"], self.counts, strict=True):
            so_far += count
            found.append((bound, float(so_far)))
        return found


class DatabaseMetrics(Collector):
    """Counts what ended since this process began, and reads what waits now, at most once in a few seconds."""

    def __init__(self, database: Database, *, seconds: float = 5) -> None:
        """`seconds` is how old the numbers of a scrape may be."""
        self._database = database
        self._seconds = seconds
        self._lock = threading.Lock()
        self._until = 0.0
        self._place: Place | None = None
        self._steps: set[tuple[str, str]] = set()
        self._ended: Counter[tuple[str, str, str, str, str]] = Counter()
        self._durations: dict[tuple[str, str], _Histogram] = {}
        self._waiting: Sequence[Waiting] = ()
        self._up: dict[str, bool] = {}
        self._lag = 0.0

    def start_counting(self) -> None:
        """Count what ends from now on."""
        with self._database.read() as unit:
            self._place = head(unit)

    def collect(self) -> Iterator[Metric]:
        """Without the database the last numbers are repeated."""
        with self._lock:
            if (began := time.monotonic()) >= self._until:
                try:
                    self._refresh()
                except WorkflowError as error:
                    log.warning("metrics: %s", error.message)
                took = time.monotonic() - began
                self._until = time.monotonic() + max(self._seconds, took * _REST)
            yield from self._families()

    def _refresh(self) -> None:
        if self._place is None:
            self.start_counting()
        assert self._place is not None
        for _ in range(_MOST_PAGES):
            with self._database.read() as unit:
                unit.snapshot()
                ended, place = queries.ended_behind(unit, self._place)
            for each in ended:
                self._count(each)
            if place == self._place:
                break
            self._place = place
        with self._database.read() as unit:
            unit.snapshot()
            self._waiting = queries.waiting(unit)
            self._up = queries.backends_up(unit)
            self._lag = queries.events_lag(unit)

    def _count(self, ended: Ended) -> None:
        step = (ended.pipeline, ended.step)
        if step not in self._steps:
            if len(self._steps) < _MOST_STEPS:
                self._steps.add(step)
            else:
                step = (OTHER, OTHER)
        self._ended[*step, ended.backend, ended.outcome, ended.reason] += 1
        for status, seconds in (
            (Status.PENDING, ended.pending),
            (Status.SUBMITTED, ended.submitted),
            (Status.RUNNING, ended.running),
        ):
            if seconds is not None:
                self._durations.setdefault((status, ended.backend), _Histogram()).add(max(seconds, 0.0))

    def _families(self) -> list[Metric]:
        ended = CounterMetricFamily(
            "ccat_wm_step_runs",
            "Ends of step runs since this manager started; a failed attempt that is repeated counts.",
            labels=["pipeline", "step", "backend", "outcome", "reason"],
        )
        for labels, count in self._ended.items():
            ended.add_metric(labels, count)
        seconds = HistogramMetricFamily(
            "ccat_wm_step_run_seconds", "Seconds that ended step runs spent in a status.", labels=["status", "backend"]
        )
        for of, histogram in self._durations.items():
            seconds.add_metric(of, histogram.buckets(), histogram.total)
        return [ended, seconds, *self._gauges()]

    def _gauges(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "ccat_wm_waiting", "Step runs that wait, up to 100,000 for each backend.", labels=["cause", "backend"]
        )
        oldest = GaugeMetricFamily(
            "ccat_wm_oldest_wait_seconds", "Age of the oldest of these step runs.", labels=["cause", "backend"]
        )
        for each in self._waiting:
            waiting.add_metric([each.cause, each.backend], each.waiting)
            oldest.add_metric([each.cause, each.backend], each.oldest)
        up = GaugeMetricFamily("ccat_wm_backend_up", "1: workers can use the backend.", labels=["backend"])
        for name, is_up in self._up.items():
            up.add_metric([name], float(is_up))
        lag = GaugeMetricFamily("ccat_wm_events_lag_seconds", "Age of the oldest event that readers cannot see yet.")
        lag.add_metric([], self._lag)
        yield from (waiting, oldest, up, lag)


class DoorbellMetrics(Collector):
    """The doorbell as it is at the time of a scrape."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("ccat_wm_doorbell_up", "1: this manager reaches Redis.")
        depth = GaugeMetricFamily(
            "ccat_wm_doorbell_messages", "Messages that no worker has taken yet.", labels=["bell", "backend"]
        )
        try:
            found = self._doorbell.depths()
        except ServiceUnavailable as error:
            log.warning("metrics: %s", error.message)
            up.add_metric([], 0.0)
        else:
            up.add_metric([], 1.0)
            for name, count in found.items():
                depth.add_metric(name.split(":", 1), count)
        yield from (up, depth, *self._verification())

    def _verification(self) -> Iterator[Metric]:
        findings = GaugeMetricFamily(
            "ccat_wm_verify_findings", "What the last `ccat-wm verify` has found.", labels=["kind"]
        )
        ended = GaugeMetricFamily("ccat_wm_verify_end_seconds", "When it ended, in seconds since 1970.")
        if (text := self._doorbell.remembered(VERIFICATION)) is not None:
            found: dict[str, Any] = json.loads(text)
            for kind in KINDS:
                findings.add_metric([kind], found["kinds"].get(kind, 0))
            ended.add_metric([], found["ended"])
        yield from (findings, ended)
