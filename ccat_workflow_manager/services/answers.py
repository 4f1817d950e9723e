"""One computation for all readers: an answer is kept for a second, and only one thread computes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar, cast

T = TypeVar("T")

_MOST = 2000


@dataclass(slots=True)
class _Slot:
    lock: Lock = field(default_factory=Lock)
    value: Any = None
    seconds: float = 0.0
    until: float = 0.0
    forgotten: int = 0
    """How often; `as_of` is the same when the value was begun after the last time."""
    as_of: int = 0

    def is_good(self, now: float) -> bool:
        return now < self.until and self.as_of == self.forgotten


class Answers:
    """Answers by key. A failed computation is not kept."""

    def __init__(self, longest: float = 60.0) -> None:
        """No answer is kept for longer than `longest` seconds."""
        self.longest = longest
        self.changes = 0
        """How often something has changed."""
        self._lock = Lock()
        self._slots: dict[Hashable, _Slot] = {}

    def get(self, key: Hashable, compute: Callable[[], T], seconds: float = 1.0) -> T:
        """The answer for this key, at most `seconds` old."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            if len(self._slots) > _MOST:
                self._forget_old()
        with slot.lock:
            if not slot.is_good(time.monotonic()):
                slot.seconds, as_of = seconds, slot.forgotten
                slot.value = compute()
                slot.as_of, slot.until = as_of, time.monotonic() + min(seconds, self.longest)
            return cast("T", slot.value)

    def forget(self, kept_at_most: float = math.inf) -> None:
        """Compute the answers anew that are kept for at most so many seconds: something has changed."""
        with self._lock:
            self.changes += 1
            for slot in self._slots.values():
                if slot.seconds <= kept_at_most:
                    slot.forgotten += 1

    def _forget_old(self) -> None:
        now = time.monotonic()
        self._slots = {key: slot for key, slot in self._slots.items() if slot.is_good(now) or slot.lock.locked()}
