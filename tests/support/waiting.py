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
_LONGEST_PATIENCE = 4.0
PATIENCE = 240.0 if os.environ.get("CI") == "true" else 60.0
"""Seconds that a test waits for anything, at least. Where no developer waits for the result, it is patient."""


def wait_for(
    ask: Callable[[], T | None],
    timeout: float = 10,
    what: str | Callable[[], str] = "an answer",
    interval: float = 0.02,
) -> T:
    """Ask until the answer is neither None nor False. Fails the test after `timeout` seconds (a busy machine: later).

    If `what` is a function, its text describes the moment of the failure. A question that takes long is followed by a
    pause as long, so that the processes under test get their time.
    """
    timeout = max(timeout, PATIENCE)
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        now = time.monotonic()
        if now >= began + timeout * _processes_per_core():
            described = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {now - began:.0f} s in vain for {described}; last answer: {answer!r}")
        _PAUSE.wait(max(interval, min(now - asked, _LONGEST_PAUSE)))


def _processes_per_core() -> float:
    """How much longer than on a quiet machine everything takes now, as far as a test is patient with it."""
    return min(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), _LONGEST_PATIENCE)


def wait_until(
    condition: Callable[[], object], timeout: float = 10, what: str | Callable[[], str] = "a condition"
) -> None:
    """Wait until the condition is true."""
    wait_for(lambda: bool(condition()) or None, timeout, what)
