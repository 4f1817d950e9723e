"""A limit for the requests of each token and person."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

_MOST_CALLERS = 10_000


class RateLimit:
    """Token buckets that hold the requests of one second each. Used in the event loop only."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, caller: str, now: float | None = None) -> int:
        """0 if the caller may make a request now, else the whole seconds after which it may."""
        if not self._per_second:
            return 0
        now = time.monotonic() if now is None else now
        most = max(1.0, self._per_second)
        left, at = self._buckets.pop(caller, (most, now))
        left = min(most, left + (now - at) * self._per_second)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - left) / self._per_second))
