"""Waiting for a condition with a deadline: the only way a test waits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")

_PAUSE = Event()
_LONGEST_PAUSE = 0.5
_AT_LEAST = 45.0 if os.environ.get("CI") == "true" else 0.0
"""Seconds. Where nobody sits and waits, a busy machine gets the time it needs."""


def wait_for(ask: Callable[[], T | None], timeout: float = 10, what: str = "an answer", interval: float = 0.02) -> T:
    """Ask until the answer is neither None nor False; fail the test at the deadline.

    A question that takes long is followed by a pause as long, so that the processes under test get their time.
    """
    timeout = max(timeout, _AT_LEAST)
    deadline = time.monotonic() + timeout
    while True:
        asked = time.monotonic()
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        now = time.monotonic()
        if now >= deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what}; last answer: {answer!r}")
        _PAUSE.wait(max(interval, min(now - asked, _LONGEST_PAUSE)))


def wait_until(condition: Callable[[], object], timeout: float = 10, what: str = "a condition") -> None:
    """Wait until the condition is true."""
    wait_for(lambda: bool(condition()) or None, timeout, what)
