"""Long work is done once, however many ask for its result."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from ccat_workflow_manager.errors import JobDeferred
from ccat_workflow_manager.execution.background import Background
from ccat_workflow_manager.failures import FailureReason

THREADS = 8


@pytest.fixture
def _hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Round:
    """All threads ask for the same work at once; it goes on until all but one were told that it does."""

    def __init__(self) -> None:
        self.begun = 0
        self._told = threading.Semaphore(0)
        self._together = threading.Barrier(THREADS)

    def work(self) -> int:
        self.begun += 1
        for _ in range(THREADS - 1):
            self._told.acquire()
        return self.begun

    def ask(self, background: Background[int], _: int) -> int | None:
        self._together.wait()
        try:
            return background.result(self, self.work, lambda: None, name="it", waiting="it goes on")
        except JobDeferred:
            self._told.release()
            return None


@pytest.mark.usefixtures("_hasty")
def test_who_asks_while_it_begins_waits_for_it() -> None:
    background: Background[int] = Background(FailureReason.IMAGE_PULL)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(100):
            found = list(pool.map(partial(Round().ask, background), range(THREADS)))
            assert sorted(each or 0 for each in found) == [0] * (THREADS - 1) + [1]
