"""What the maintained figures tell: throughput, failures and durations over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from ccat_workflow_manager.db.queries.figures import (
    RUN_OUTCOMES,
    SPANS,
    STEP_OUTCOMES,
    Counted,
    Window,
    complete_until,
    of_pipeline,
    series,
)
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.failures import Blame, failure_info
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.durations import quantile

_MEDIAN, _HIGH = 0.5, 0.95


def timeseries(unit: UnitOfWork, span: str, now: datetime, projects: Projects = None) -> dict[str, Any]:
    """Runs and attempts in the parts of a span, by what became of them."""
    window = Window.until(SPANS[span], now)
    found = series(unit, window, projects)
    runs, attempts = _split(found)
    return {
        **_times(unit, window),
        "runs": _over_time(runs, RUN_OUTCOMES, window),
        "attempts": _over_time(attempts, STEP_OUTCOMES, window),
        "failure_rate": _rates(runs, window, "FAILED"),
        "failed_by": _failed_by(attempts, window),
        "totals": {
            "runs": _totals(runs, RUN_OUTCOMES),
            "attempts": _totals(attempts, STEP_OUTCOMES),
            "failure_rate": _rate(runs, "FAILED"),
        },
        "reasons": _reasons(attempts),
    }


def pipeline_stats(
    unit: UnitOfWork, pipeline: str, span: str, now: datetime, projects: Projects = None
) -> dict[str, Any]:
    """The outcomes and durations of the runs of a pipeline and of each of its steps."""
    window = Window.until(SPANS[span], now)
    found = of_pipeline(unit, pipeline, window, projects)
    runs, _ = _split(found)
    by_step: dict[str, list[Counted]] = {}
    for each in found:
        if each.step:
            by_step.setdefault(each.step, []).append(each)
    return {
        "name": pipeline,
        **_times(unit, window),
        "runs": _summed(runs, RUN_OUTCOMES, window),
        "steps": {step: _summed(rows, STEP_OUTCOMES, window) for step, rows in by_step.items()},
    }


def _times(unit: UnitOfWork, window: Window) -> dict[str, Any]:
    return {
        "first": window.first.isoformat(),
        "last": window.last.isoformat(),
        "seconds": window.span.length,
        "complete_until": complete_until(unit).isoformat(),
    }


def _split(found: Iterable[Counted]) -> tuple[list[Counted], list[Counted]]:
    runs: list[Counted] = []
    attempts: list[Counted] = []
    for each in found:
        (attempts if each.step else runs).append(each)
    return runs, attempts


def _summed(rows: Sequence[Counted], outcomes: Sequence[str], window: Window) -> dict[str, Any]:
    """The totals of these rows, and what they are over time."""
    done = [each for each in rows if each.outcome == "COMPLETED"]
    return {
        "totals": _totals(rows, outcomes),
        "success_rate": _rate(rows, "COMPLETED"),
        "median_seconds": _duration(done, _MEDIAN),
        "high_seconds": _duration(done, _HIGH),
        "reasons": _reasons(rows),
        "over_time": {
            **_over_time(rows, outcomes, window),
            "success_rate": _rates(rows, window, "COMPLETED"),
            "median_seconds": _in_parts(done, window, lambda part: _duration(part, _MEDIAN)),
            "high_seconds": _in_parts(done, window, lambda part: _duration(part, _HIGH)),
        },
    }


def _totals(rows: Iterable[Counted], outcomes: Sequence[str]) -> dict[str, int]:
    totals = dict.fromkeys(outcomes, 0)
    for each in rows:
        totals[each.outcome] += each.number
    return totals


def _over_time(rows: Iterable[Counted], outcomes: Sequence[str], window: Window) -> dict[str, list[int]]:
    found = {outcome: [0] * window.span.parts for outcome in outcomes}
    for each in rows:
        found[each.outcome][each.part] += each.number
    return found


def _failed_by(attempts: Iterable[Counted], window: Window) -> dict[str, list[int]]:
    """How many failed in each part, by whose doing it was."""
    found = {str(blame): [0] * window.span.parts for blame in Blame}
    for each in attempts:
        if each.outcome == "FAILED" and (info := failure_info(each.reason)) is not None:
            found[info.blame][each.part] += each.number
    return found


def _in_parts(
    rows: Iterable[Counted], window: Window, value: Callable[[list[Counted]], float | None]
) -> list[float | None]:
    parts: list[list[Counted]] = [[] for _ in range(window.span.parts)]
    for each in rows:
        parts[each.part].append(each)
    return [value(part) for part in parts]


def _rates(rows: Iterable[Counted], window: Window, outcome: str) -> list[float | None]:
    return _in_parts(rows, window, lambda part: _rate(part, outcome))


def _rate(rows: Iterable[Counted], outcome: str) -> float | None:
    """The part of the completed and failed that is of this outcome. None: there are none."""
    counts: Counter[str] = Counter()
    for each in rows:
        counts[each.outcome] += each.number
    both = counts["COMPLETED"] + counts["FAILED"]
    return round(counts[outcome] / both, 4) if both else None


def _duration(rows: Iterable[Counted], part: float) -> float | None:
    counts: Counter[int] = Counter()
    for each in rows:
        counts[each.bucket] += each.number
    found = quantile(counts, part)
    return None if found is None else round(found, 3)


def _reasons(rows: Iterable[Counted]) -> dict[str, int]:
    """How many failed for each reason, the most common first."""
    counts: Counter[str] = Counter()
    for each in rows:
        if each.outcome == "FAILED" and each.reason:
            counts[each.reason] += each.number
    return dict(counts.most_common())
