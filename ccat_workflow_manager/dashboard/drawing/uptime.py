"""When a backend was away, in quarters of an hour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

SHOWN = timedelta(hours=24)
_QUARTER = timedelta(minutes=15)
_STEP, _WIDTH, _HEIGHT = 3, 2.1, 18

Span = tuple[datetime, datetime]


def away_spans(changes: Iterable[tuple[datetime, bool]], is_away: bool, now: datetime) -> list[Span]:
    """From when to when it was away.

    `changes` are the moments at which it went away (true) or came back, in order; `is_away` is the state now.
    Before the first change the opposite was true.
    """
    spans: list[Span] = []
    begin = now - SHOWN
    known = [(min(at, now), goes) for at, goes in changes if at > begin]
    gone = begin if (not known[0][1] if known else is_away) else None
    for at, goes in known:
        if goes:
            gone = gone or at
        elif gone is not None:
            spans.append((gone, at))
            gone = None
    if gone is not None:
        spans.append((gone, now))
    return spans


def away_seconds(spans: Sequence[Span]) -> float:
    return sum((end - begin).total_seconds() for begin, end in spans)


def uptime(spans: Sequence[Span], now: datetime) -> Markup:
    """A mark for each quarter of an hour: away all the time, for a part of it, or not at all."""
    paths: dict[str, list[str]] = {"f-done": [], "f-warn": [], "f-fail": []}
    number = SHOWN // _QUARTER
    for place in range(number):
        begin = now - (number - place) * _QUARTER
        end = begin + _QUARTER
        away = sum(max(0.0, (min(end, last) - max(begin, first)).total_seconds()) for first, last in spans)
        group = "f-done" if not away else "f-fail" if away >= 0.99 * _QUARTER.total_seconds() else "f-warn"
        paths[group].append(f"M{place * _STEP} 0h{_WIDTH}v{_HEIGHT}h-{_WIDTH}z")
    drawn = "".join(f'<path class="{group}" d="{"".join(marks)}"/>' for group, marks in paths.items() if marks)
    return Markup(
        f'<svg class="uptime" viewBox="0 0 {number * _STEP} {_HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="away for {away_seconds(spans):.0f} s of the last 24 hours">{drawn}</svg>'
    )
