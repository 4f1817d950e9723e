"""Charts of the maintained figures: throughput, failures, success and durations over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup

from ccat_workflow_manager.dashboard.drawing.charts import Series, columns, lines, spark

_LAYERS = (("done", "COMPLETED"), ("stop", "CANCELLED"), ("fail", "FAILED"))
_DOING = (("user", "fail", "pipeline"), ("site", "site", "site"), ("us", "queue", "workflow manager"))
_DAY_SECONDS = 86_400
_MINUTES = " min"


def throughput(told: Mapping[str, Any], width: int = 368) -> Markup:
    """Step runs that ended in each part of a span, by how: stacked columns."""
    attempts, totals = told["attempts"], told["totals"]["attempts"]
    label = f"Step runs that ended: {totals['COMPLETED']:,} completed, {totals['FAILED']:,} failed"
    return columns(label, [Series(group, attempts[outcome]) for group, outcome in _LAYERS], _marks(told), width)


def failed_by(told: Mapping[str, Any], width: int = 368) -> Markup:
    """The part of the attempts that ended in each part of a span and failed, in per cent, by whose doing it was."""
    attempts, totals = told["attempts"], told["totals"]["attempts"]
    ended = [done + failed for done, failed in zip(attempts["COMPLETED"], attempts["FAILED"], strict=True)]
    layers = [
        Series(group, [100 * n / of if of else 0.0 for n, of in zip(told["failed_by"][by], ended, strict=True)], word)
        for by, group, word in _DOING
    ]
    every = totals["COMPLETED"] + totals["FAILED"]
    label = f"Attempts that failed, by whose doing it was: {totals['FAILED']:,} of {every:,}"
    return lines(label, layers, _marks(told), "%", width)


def success_rate(stats: Mapping[str, Any], width: int = 800) -> Markup:
    """The part of the runs of a pipeline that completed, in per cent."""
    rate = stats["runs"]["success_rate"]
    label = "Success rate: no run has ended" if rate is None else f"Success rate: {100 * rate:.1f} % of the span"
    values = _filled(stats["runs"]["over_time"]["success_rate"], 100)
    return lines(label, [Series("done", values)], _marks(stats), "%", width, room_for=_MINUTES)


def durations(stats: Mapping[str, Any], width: int = 800) -> Markup:
    """The median and the 95th percentile of the durations of completed runs, in minutes."""
    over_time = stats["runs"]["over_time"]
    layers = [
        Series("run", _filled(over_time["median_seconds"], 1 / 60)),
        Series("wait", _filled(over_time["high_seconds"], 1 / 60)),
    ]
    return lines("Duration of completed runs, median and 95th percentile", layers, _marks(stats), _MINUTES, width)


def trend(outcomes: Mapping[str, Any]) -> Markup:
    """A small line of the median duration of a step, over the parts of a span in which it completed."""
    known = [each for each in outcomes["over_time"]["median_seconds"] if each is not None]
    return spark(known, "run") if len(known) > 1 else Markup("")


def _filled(values: Sequence[float | None], factor: float) -> list[float | None]:
    """Each value, or the last one before it. Before the first there is none."""
    filled: list[float | None] = []
    last = None
    for value in values:
        last = last if value is None else value * factor
        filled.append(last)
    return filled


def _marks(told: Mapping[str, Any], count: int = 4) -> list[str]:
    """The times below a chart, in UTC."""
    first, last = (datetime.fromisoformat(told[name]) for name in ("first", "last"))
    shape = "%d %b" if (last - first).total_seconds() > _DAY_SECONDS else "%H:%M"
    return [format(first + (last - first) * part / count, shape) for part in range(count)] + ["now"]
