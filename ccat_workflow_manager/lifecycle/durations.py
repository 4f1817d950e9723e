"""Classes of durations, and what can be said of many durations that are only counted by class.

Each class is the square root of two wider than the one before, from a tenth of a second to a month.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

SHORTEST = 0.1
LAST_CLASS = 50
NO_DURATION = -1


def bounds(number: int) -> tuple[float, float]:
    """The durations of a class, in seconds: from the first up to the second."""
    return (0.0 if number == 0 else SHORTEST * 2 ** ((number - 1) / 2), SHORTEST * 2 ** (number / 2))


def quantile(counts: Mapping[int, int], part: float) -> float | None:
    """The duration that `part` of those counted by class do not exceed. None: there are none.

    It is right to within its class, whose durations are taken as evenly spread on a logarithmic scale.
    """
    known = sorted((number, count) for number, count in counts.items() if number != NO_DURATION and count > 0)
    wanted = part * sum(count for _, count in known)
    below = 0
    for number, count in known:
        if below + count >= wanted:
            low, high = bounds(number)
            share = (wanted - below) / count
            return high * share if low == 0 else low * math.exp(math.log(high / low) * share)
        below += count
    return None
