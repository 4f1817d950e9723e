"""What many readers cost: streams of events that are held open, and open dashboards."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Event
from typing import NamedTuple

from tests.bench.audience import SAMPLED, Audience, Seen, audience
from tests.bench.bench_running import to_the_end
from tests.bench.client import message
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, at_most, middle, ratio_at_least, ratio_at_most, told
from tests.bench.sizes import Sizes

_PAUSE = Event()
_ALONE_SECONDS = 0.4
"""Between two lone changes, so that each is delivered before the next."""
_QUARTER = 25
_TICKS = os.sysconf("SC_CLK_TCK")


class _Case(NamedTuple):
    """Streams of one kind; no path: none."""

    words: str
    path: str
    events: int
    """Of each run."""


_NONE = _Case("none", "", 0)
_CASES = (
    _Case("all events", "/api/v1/events", 6),
    _Case("the ends of runs", "/api/v1/events?type=ccat.wm.run.*", 1),
)


class _Round(NamedTuple):
    """What a burst of runs took, with or without streams."""

    seconds: float
    cpu: float
    manager: float
    seen: Counter[str]
    late: float
    """How long after the end of the last run the streams had everything, in seconds."""
    alone: Sequence[float]


def streams(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    """Bursts of runs in turn with streams and without any. Each stream gets all that it asks for, or it is an error."""
    pipeline = there.add_pipeline()
    there.warm_up(pipeline)
    found: dict[_Case, list[_Round]] = {case: [] for case in (_NONE, *_CASES)}
    for number in range(sizes.rounds):
        for case in found if number % 2 else reversed(found):
            found[case].append(_burst(there, pipeline, case, sizes))
    there.require_completed(sizes.noop_runs * sizes.rounds * len(found))
    for case in _CASES:
        yield from _told(case, found[case], found[_NONE], sizes)


def _told(case: _Case, rounds: Sequence[_Round], bare: Sequence[_Round], sizes: Sizes) -> Iterator[Figure]:
    what, runs, pairs = (
        f"{sizes.streams} streams of {case.words}",
        sizes.noop_runs,
        list(zip(rounds, bare, strict=True)),
    )
    rate, slower = (
        runs / middle(each.seconds for each in bare),
        middle(one.seconds / each.seconds for each, one in pairs),
    )
    yield ratio_at_least(f"noop runs beside {what}", rate * slower, "runs/s", rate, "without", 0.95)
    costs = middle(each.cpu / one.cpu for each, one in pairs)
    before = 1e3 * middle(each.cpu for each in bare) / runs
    yield ratio_at_most("  CPU of the deployment for a run", before * costs, "ms", before, "without", 1.05)
    manager = [1e3 * middle(each.manager for each in some) / runs for some in (rounds, bare)]
    yield told("  of it the manager", manager[0], "ms", manager[1], "without")
    yield told("  beside it the readers", 1e3 * middle(each.seen["cpu"] for each in rounds) / runs, "ms")
    yield told("  a stream was sent", middle(each.seen["bytes"] for each in rounds) / sizes.streams / 1e6, "MB")
    yield told("  in so many pieces", middle(each.seen["pieces"] for each in rounds) / sizes.streams, "")
    alone = 1e3 * middle(delay for each in rounds for delay in each.alone)
    yield at_most("  a lone change reaches the median stream in", alone, "ms", 300)
    yield told("  the last event of a burst came late by", middle(each.late for each in rounds), "s")


def _burst(there: Deployment, pipeline: str, case: _Case, sizes: Sizes) -> _Round:
    request = message("POST", "/api/v1/runs", {"pipeline": pipeline})
    args = ("streams", sizes.streams, case.path, "Accept-Encoding: gzip")
    with audience(there.port, *args) if case.path else nullcontext() as readers:
        for _ in range(sizes.lone_changes if readers else 0):
            there.api.exchange(request)
            _PAUSE.wait(_ALONE_SECONDS)
        alone = _all_seen(readers, case.events * sizes.lone_changes, sizes)
        before = _cpu_seconds(there)
        seconds = to_the_end(there, pipeline, sizes.noop_runs)
        ended = time.perf_counter()
        seen = _all_seen(readers, case.events * sizes.noop_runs, sizes)
        late = time.perf_counter() - ended
        used = _cpu_seconds(there)
        used.subtract(before)
    return _Round(seconds, sum(used.values()), used["manager"], seen.counts, late, alone.delays)


def _all_seen(readers: Audience | None, events: int, sizes: Sizes) -> Seen:
    """What the streams were sent, once each that is read has had so many events."""
    seen, expected = Seen(), events * min(sizes.streams, SAMPLED)
    deadline = time.monotonic() + 100
    while readers is not None and seen.counts["events"] < expected:
        _PAUSE.wait(_ALONE_SECONDS)
        told_now = readers.seen()
        seen.counts += told_now.counts
        seen.delays += told_now.delays
        if time.monotonic() > deadline or seen.counts["events"] > expected:
            raise RuntimeError(f"{seen.counts['events']} events came of {expected}")
    return seen


# --- dashboards ------------------------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """What was used and what came while runs were asked for at an even rate."""

    seconds: float
    cpu: Counter[str]
    seen: Counter[str]

    def share(self, manager: bool) -> float:
        """CPU time of the manager, or of all other processes, in % of a core."""
        used = sum(value for name, value in self.cpu.items() if (name == "manager") is manager)
        return 100 * used / self.seconds


def dashboards(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    """The manager's CPU time with open dashboards, less that without, while so many runs a second are asked for."""
    pipeline = there.add_pipeline()
    there.warm_up(pipeline)
    a_run = there.bulk(pipeline, 1)[0]
    there.wait_idle()
    paths = ("/", "/runs", "/", f"/runs/{a_run}", "/", "/events", "/", "/runs?status=FAILED")
    for rate in sizes.dashboard_rates:
        bare, watched = list[_Span](), list[_Span]()
        for _ in range(sizes.rounds):
            bare.append(_span(there, pipeline, rate, sizes, None))
            with audience(there.port, "dashboards", sizes.dashboards, *paths) as readers:
                _span(there, pipeline, rate, sizes, readers)  # what the opening costs is not in the figure
                watched.append(_span(there, pipeline, rate, sizes, readers))
            there.wait_idle()
        extra = middle(one.share(True) - other.share(True) for one, other in zip(watched, bare, strict=True))
        what = f"{sizes.dashboards} dashboards, {rate} runs/s: CPU of the manager for them"
        yield at_most(what, extra, "% of a core", _QUARTER)
        for words, manager in (("the manager in all", True), ("all other processes", False)):
            shares = [middle(each.share(manager) for each in some) for some in (watched, bare)]
            yield told(f"  {words}", shares[0], "% of a core", shares[1], "without")
        for name, words in (("told", "messages"), ("status_200", "parts"), ("status_304", "parts as before (304)")):
            yield told(f"  {words} a dashboard", middle(_of_each(each, name, sizes) for each in watched), "/s")
        yield told("  sent to a dashboard", middle(_of_each(each, "bytes", sizes) for each in watched) / 1e3, "kB/s")


def _of_each(span: _Span, name: str, sizes: Sizes) -> float:
    return span.seen[name] / span.seconds / sizes.dashboards


def _span(there: Deployment, pipeline: str, rate: int, sizes: Sizes, readers: Audience | None) -> _Span:
    request = message("POST", "/api/v1/runs", {"pipeline": pipeline})
    if readers is not None:
        readers.seen()
    before, began = _cpu_seconds(there), time.perf_counter()
    for number in range(int(rate * sizes.dashboard_seconds)):
        _PAUSE.wait(max(0.0, began + number / rate - time.perf_counter()))
        there.api.exchange(request)
    _PAUSE.wait(max(0.0, began + sizes.dashboard_seconds - time.perf_counter()))
    took = time.perf_counter() - began
    used = _cpu_seconds(there)
    used.subtract(before)
    return _Span(took, used, readers.seen().counts if readers is not None else Counter())


def _cpu_seconds(there: Deployment) -> Counter[str]:
    """By kind of process, the time on a core so far, also of what has ended meanwhile: threads, and what was forked."""
    used: Counter[str] = Counter()
    for pid, name in there.pids().items():
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[name] += sum(map(int, fields[11:15])) / _TICKS  # type: ignore[assignment]
    return used
