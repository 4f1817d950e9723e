"""Grid scattered samples, interpolate a map to pixels, and find its contours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Rows = list[list[float]]
Line = tuple[tuple[float, float], tuple[float, float]]


class Gridder:
    """Convolves samples with a Gaussian onto square cells around the origin.

    Rows run from south to north, columns from east (positive offsets) to west, as on the sky.
    """

    def __init__(self, cells: int, cell: float, kernel: float, planes: int) -> None:
        self.cells, self.cell = cells, cell
        self.weights = [[0.0] * cells for _ in range(cells)]
        self.planes = [[[0.0] * cells for _ in range(cells)] for _ in range(planes)]
        self._reach = kernel * 1.25 / cell
        self._narrowness = 4 * math.log(2) * (cell / kernel) ** 2

    def add(self, x: float, y: float, values: Sequence[float], weight: float = 1.0) -> None:
        """Add one sample: its offsets on the sky and a value for each plane."""
        column, row = self.cells / 2 - 0.5 - x / self.cell, self.cells / 2 - 0.5 + y / self.cell
        left, right = max(0, math.ceil(column - self._reach)), min(self.cells - 1, math.floor(column + self._reach))
        low, high = max(0, math.ceil(row - self._reach)), min(self.cells - 1, math.floor(row + self._reach))
        across = [math.exp(-self._narrowness * (index - column) ** 2) for index in range(left, right + 1)]
        for index in range(low, high + 1):
            factor = weight * math.exp(-self._narrowness * (index - row) ** 2)
            weights = self.weights[index]
            targets = [(plane[index], value) for plane, value in zip(self.planes, values, strict=True)]
            for at, part in enumerate(across, start=left):
                share = part * factor
                weights[at] += share
                for target, value in targets:
                    target[at] += share * value

    def mean(self, plane: int) -> Rows:
        """The weighted mean in each cell, zero where there is no sample."""
        pairs = zip(self.planes[plane], self.weights, strict=True)
        return [[v / w if w > 1e-9 else 0.0 for v, w in zip(values, ws, strict=True)] for values, ws in pairs]


def enlarge(rows: Rows, size: int) -> Rows:
    """Interpolate (Catmull-Rom) to `size` x `size`, one direction after the other."""
    wide = _transposed(_stretched(_transposed(rows), size))
    return _stretched(wide, size)


def _stretched(rows: Rows, size: int) -> Rows:
    count = len(rows)
    result = []
    for index in range(size):
        place = (index + 0.5) * count / size - 0.5
        base = math.floor(place)
        t = place - base
        a = -0.5 * t + t * t - 0.5 * t**3
        b = 1 - 2.5 * t * t + 1.5 * t**3
        c = 0.5 * t + 2 * t * t - 1.5 * t**3
        d = -0.5 * t * t + 0.5 * t**3
        four = (rows[min(max(base + step, 0), count - 1)] for step in (-1, 0, 1, 2))
        result.append([a * p + b * q + c * r + d * s for p, q, r, s in zip(*four, strict=True)])
    return result


def _transposed(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]


def contours(rows: Rows, level: float) -> list[Line]:
    """Short lines (in cells) at which the map has this value, by marching squares."""
    lines: list[Line] = []
    for y, (low, high) in enumerate(pairwise(rows)):
        for x in range(len(low) - 1):
            a, b, c, d = low[x], low[x + 1], high[x + 1], high[x]
            above = (a > level) + (b > level) + (c > level) + (d > level)
            if above in (0, 4):
                continue
            crossings = []
            for first, second, start, step in (
                (a, b, (x, y), (1, 0)),
                (b, c, (x + 1, y), (0, 1)),
                (d, c, (x, y + 1), (1, 0)),
                (a, d, (x, y), (0, 1)),
            ):
                if (first > level) != (second > level):
                    part = (level - first) / (second - first)
                    crossings.append((start[0] + part * step[0], start[1] + part * step[1]))
            lines.extend(zip(crossings[::2], crossings[1::2], strict=True))
    return lines
