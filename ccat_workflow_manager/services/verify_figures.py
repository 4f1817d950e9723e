"""Compares the maintained figures with the events, day by day, in the order in which they were counted.

Only the days that are being counted are in memory. The last part is compared in one snapshot with the figures, so it
may run while the figures are kept.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from ccat_workflow_manager.db.figures import MINUTE, QUARTER
from ccat_workflow_manager.db.queries import verify_figures
from ccat_workflow_manager.db.queries.verify import Finding
from ccat_workflow_manager.db.queries.verify_figures import FigureKey
from ccat_workflow_manager.db.session import Database

K = TypeVar("K")

_PORTION = 50_000
_OPEN_FOR = timedelta(days=2)
"""Transactions that begin so much later write no events of a day any more; those that do are counted, too."""


@dataclass(slots=True)
class FigureCheck:
    """One comparison. `share` is the part of the time in which it reads."""

    database: Database
    share: float
    rest: Callable[[float], None]
    recounted: Counter[FigureKey] = field(default_factory=Counter)
    differences: Counter[FigureKey] = field(default_factory=Counter)
    """By how much the figures of a day that was compared are too high."""
    compared: set[datetime] = field(default_factory=set)

    def findings(self) -> Iterator[Finding]:
        with self.database.read() as unit:
            last = verify_figures.place(unit)
        after = self._walk(last)
        with self.database.read() as unit:
            unit.snapshot()
            self._add(verify_figures.recount(unit, after, verify_figures.place(unit)))
            self._compare(self._open_days(), verify_figures.days(unit, self._open_days()))
            finer = {seconds: verify_figures.finer(unit, seconds) for seconds in (MINUTE, QUARTER)}
            counted, real = verify_figures.live_figures(unit)
        yield from self._wrong_days()
        for seconds, (days, sums) in finer.items():
            for key in sorted(_unequal(days, sums)):
                yield verify_figures.wrong_figure(key, f"{sums[key]} in times of {seconds} s, {days[key]} in the day")
        for project, status in sorted(_unequal(counted, real)):
            yield verify_figures.wrong_live_figure(project, status, counted[project, status], real[project, status])

    def _walk(self, last: int) -> int:
        """Recount the events up to a place. Returns how far that is."""
        after = 0
        while True:
            began = time.monotonic()
            with self.database.read() as unit:
                portion = verify_figures.next_portion(unit, after, last, _PORTION)
                if portion is None:
                    return after
                self._add(verify_figures.recount(unit, after, portion[0]))
                after = portion[0]
                closed = {key.begin for key in self.recounted if key.begin + _OPEN_FOR < portion[1]}
                if closed:
                    self._compare(closed, verify_figures.days(unit, closed))
            self.rest((time.monotonic() - began) * (1 / self.share - 1))

    def _open_days(self) -> set[datetime]:
        return {key.begin for key in self.recounted}

    def _add(self, more: Counter[FigureKey]) -> None:
        for key, number in more.items():
            if key.begin in self.compared:
                self.differences[key] -= number
            else:
                self.recounted[key] += number

    def _compare(self, closed: set[datetime], stored: Counter[FigureKey]) -> None:
        real = Counter({key: number for key, number in self.recounted.items() if key.begin in closed})
        for key in _unequal(stored, real):
            self.differences[key] += stored[key] - real[key]
        self.recounted = Counter({key: number for key, number in self.recounted.items() if key.begin not in closed})
        self.compared |= closed

    def _wrong_days(self) -> Iterator[Finding]:
        """The events of a run that was deleted no longer tell its pipeline: there, only the sums must agree."""
        sums: Counter[tuple[object, ...]] = Counter()
        for key, difference in self.differences.items():
            sums[key.lasting] += difference
        for key in sorted(key for key, difference in self.differences.items() if difference):
            difference = self.differences[key]
            if sums[key.lasting] or (difference < 0 and key.pipeline):
                way = "too many" if difference > 0 else "too few"
                yield verify_figures.wrong_figure(key, f"{abs(difference)} {way} in the day, by the events")


def _unequal(first: Counter[K], second: Counter[K]) -> list[K]:
    if dict(first) == dict(second):
        return []
    return [key for key in first.keys() | second.keys() if first[key] != second[key]]
