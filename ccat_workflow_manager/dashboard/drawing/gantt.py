"""Keys over time: one row a key, the steps one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from markupsafe import Markup

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.dashboard.drawing.shapes import GROUP_OF

WIDTH = 600
Attempts: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Scale:
    """The span of time of a drawing; `until` is now while the run goes on."""

    first: datetime
    until: datetime
    going_on: bool

    def x(self, moment: str | datetime | None) -> float:
        at = times.parse(moment) or self.until
        span = max(1e-6, (self.until - self.first).total_seconds())
        return min(WIDTH, max(0.0, (WIDTH - 21) * (at - self.first).total_seconds() / span))

    def ticks(self) -> list[str]:
        """Five times, evenly."""
        span = self.until - self.first
        if span.total_seconds() < 60:  # whole seconds would look uneven
            moments = [self.first + span * part / 5 for part in range(5)]
            return [f"{each:%H:%M:%S}.{each.microsecond // 100_000}" for each in moments]
        form = "%H:%M:%S" if span.total_seconds() < 600 else "%H:%M" if span.total_seconds() < 86_400 else "%d %b"
        return [(self.first + span * part / 5).strftime(form) for part in range(5)]


def row(scale: Scale, step_runs: Attempts, attempts: Mapping[str, Attempts]) -> Markup:
    """The bars of one key: a thin line while it waits, red for a failed attempt, amber for its back-off."""
    out: list[str] = []
    for number, step in enumerate(step_runs):
        out += _bars(scale, step, attempts.get(step["id"], ()), number % 3)
    if scale.going_on:
        out.append(f'<rect class="nowl" x="{scale.x(scale.until):.1f}" width="1" height="18"/>')
    box = f'viewBox="0 0 {WIDTH} 18" preserveAspectRatio="none"'
    return Markup(f'<svg class="gantt" {box} aria-hidden="true">{"".join(out)}</svg>')


def _bars(scale: Scale, step: Mapping[str, Any], attempts: Attempts, number: int) -> list[str]:
    out: list[str] = []
    for earlier in attempts[:-1]:
        if earlier["finished_at"]:
            start = scale.x(earlier["started_at"] or earlier["claimed_at"])
            out.append(_rect("f-fail g0", start, scale.x(earlier["finished_at"]), 3, 12))
    if len(attempts) > 1 and attempts[-2]["finished_at"]:
        out.append(_rect("g-off", scale.x(attempts[-2]["finished_at"]), scale.x(attempts[-1]["claimed_at"]), 8.5, 1.2))
    begin = step["started_at"] or (step["finished_at"] if step["submitted_at"] else None)
    if step["submitted_at"] and not attempts[:-1]:
        out.append(_rect("g-queue", scale.x(step["submitted_at"]), scale.x(begin), 8.5, 1.2))
    if begin and step["submitted_at"]:
        end = scale.x(step["finished_at"])
        tall = (6.5, 5) if number == 1 else (3, 12)
        out.append(_rect(f"f-{GROUP_OF[step['status']]} g{number}", scale.x(begin), end, *tall))
    return out


def _rect(kind: str, start: float, end: float, y: float, height: float) -> str:
    return f'<rect class="{kind}" x="{start:.1f}" y="{y}" width="{max(end - start, 1.2):.1f}" height="{height}"/>'
