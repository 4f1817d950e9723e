"""The invented history of an observatory: many runs over many months. `ccat-wm verify` finds nothing wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from tests.bench.story import Numbers, Pipeline, Plot, Rows, Step, Story

LIVE_RUNS = 200
"""So many of the newest runs are not over, whatever the size of the history."""
_LIVE_SECONDS = 7200
_MONTH_SECONDS = 30.4 * 86_400
_SHAPES: dict[str, Sequence[Step]] = {
    "quicklook": (Step("quicklook", 1, 40),),
    "map": (Step("calibrate", 1, 300), Step("baseline", 1, 120), Step("grid", 1, 900)),
    "reduction": (Step("reduce", 4, 600), Step("combine", 1, 900)),
    "report": (Step("fetch", 1, 60), Step("report", 1, 20)),
    "simulation": (Step("simulate", 20, 1800), Step("merge", 1, 60)),
}
_WEIGHTS = (25, 35, 25, 13, 2)
_INSTRUMENTS = ("chai", "prime-cam", "eor-spec", "mod-cam", "heterodyne", "weather", "holography", "pointing")
_PROJECTS = ("default", "default", "default", "default", "gevas", "ccat-cosmology", "chai-survey", "engineering")
_BACKENDS = ("slurm", "slurm", "slurm", "kubernetes", "local")


def pipelines() -> list[Pipeline]:
    """Forty pipelines: five shapes for each of eight instruments."""
    return [
        Pipeline(f"{instrument}-{name}", _PROJECTS[number], _BACKENDS[(number + at) % len(_BACKENDS)], steps)
        for number, instrument in enumerate(_INSTRUMENTS)
        for at, (name, steps) in enumerate(_SHAPES.items())
    ]


class History:
    """Tells one run after the other, in the order of their creation. The same seed gives the same history."""

    def __init__(self, chosen: Sequence[Pipeline], count: int, months: int, now: float, seed: int = 1) -> None:
        self._random = Random(seed)
        self._count, self._now = count, now
        self.begin = now - months * _MONTH_SECONDS
        self._live = min(LIVE_RUNS, count // 5)
        shapes = len(_SHAPES)
        weights = [_WEIGHTS[number % shapes] / (1 + number // shapes) for number in range(len(chosen))]
        self._chosen = self._random.choices(chosen, weights, k=count)
        self.numbers = Numbers()

    def portions(self, size: int = 5000) -> Iterator[Rows]:
        """The rows, a portion of runs at a time."""
        for first in range(0, self._count, size):
            rows = Rows()
            for number in range(first, min(first + size, self._count)):
                self._story(rows, number).tell()
            yield rows

    def _story(self, rows: Rows, number: int) -> Story:
        older = self._count - self._live
        if number < older:
            created = self.begin + (self._now - 60 - self.begin) * (number + self._random.random()) / older
            plot = self._random.choices(list(Plot)[:4], (88, 5, 5, 2))[0]
        else:
            created = self._now - _LIVE_SECONDS * (self._count - number) / self._live
            plot = Plot.RUNS if number % 2 else Plot.WAITS
        return Story(rows, self.numbers, self._random, self._chosen[number], created, self._now, self.begin, plot)
