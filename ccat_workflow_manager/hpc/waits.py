"""How long the jobs of the service wait at a scheduler now, from a listing that was asked for anyway."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from statistics import median

RECENT = timedelta(minutes=15)


def waited(jobs: Iterable[tuple[datetime | None, datetime | None]], now: datetime) -> float | None:
    """The median wait, in seconds, of the jobs that started lately. `jobs` are times of submission and of start."""
    seconds = [
        max(0.0, (started - submitted).total_seconds())
        for submitted, started in jobs
        if submitted is not None and started is not None and now - RECENT < started <= now
    ]
    return median(seconds) if seconds else None


def waiting(submitted: Iterable[datetime | None], now: datetime) -> float | None:
    """For how many seconds the first of these jobs has been waiting."""
    first = min((each for each in submitted if each is not None), default=None)
    return None if first is None else max(0.0, (now - first).total_seconds())
