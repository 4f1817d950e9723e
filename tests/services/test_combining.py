"""Requests that come at the same time: carried out together, answered each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import pytest

from ccat_workflow_manager.errors import Invalid, RequestError, ServiceUnavailable
from ccat_workflow_manager.services.combining import Combiner
from tests.support.waiting import PATIENCE, wait_until


class Work:
    """Doubles numbers; odd ones are refused; a batch with `poison` in it fails as a whole."""

    def __init__(self, poison: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.may_go = Event()
        self.may_go.set()
        self._poison = poison
        self._lock = Lock()

    def __call__(self, items: Sequence[int]) -> list[int | RequestError]:
        with self._lock:
            self.batches.append(list(items))
        self.may_go.wait(PATIENCE)
        if self._poison in items:
            raise ServiceUnavailable("poisoned")
        return [Invalid(f"{item} is odd") if item % 2 else 2 * item for item in items]


def test_alone_means_at_once_and_alone() -> None:
    work = Work()
    combiner = Combiner(work)
    assert combiner.do(4) == 8
    with pytest.raises(Invalid, match="5 is odd"):
        combiner.do(5)
    assert work.batches == [[4], [5]]


def test_those_who_come_meanwhile_go_together() -> None:
    work = Work()
    work.may_go.clear()
    combiner = Combiner(work, at_once=1, most=6)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(combiner.do, 0)
        wait_until(lambda: work.batches == [[0]])
        others = [pool.submit(combiner.do, number) for number in range(1, 16)]
        wait_until(lambda: combiner.queued == 15)
        work.may_go.set()
        assert first.result(PATIENCE) == 0
        for number, other in enumerate(others, 1):
            if number % 2:
                with pytest.raises(Invalid, match=f"{number} is odd"):
                    other.result(PATIENCE)
            else:
                assert other.result(PATIENCE) == 2 * number
    assert [len(batch) for batch in work.batches] == [1, 6, 6, 3]


def test_the_fault_of_one_does_not_reach_the_others() -> None:
    work = Work(poison=8)
    work.may_go.clear()
    combiner = Combiner(work, at_once=1)
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(combiner.do, 2)
        wait_until(lambda: work.batches == [[2]])
        others = {number: pool.submit(combiner.do, number) for number in (4, 6, 8, 10)}
        wait_until(lambda: combiner.queued == 4)
        work.may_go.set()
        assert first.result(PATIENCE) == 4
        assert [others[number].result(PATIENCE) for number in (4, 6, 10)] == [8, 12, 20]
        with pytest.raises(ServiceUnavailable, match="poisoned"):
            others[8].result(PATIENCE)
    assert combiner.do(12) == 24


def test_nobody_is_left_waiting_under_load() -> None:
    combiner = Combiner(Work())
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(combiner.do, range(0, 4000, 2))) == [2 * number for number in range(0, 4000, 2)]


def test_a_call_gives_up_when_its_turn_does_not_come() -> None:
    work = Work()
    work.may_go.clear()
    combiner = Combiner(work, at_once=1, patience=0.05)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(combiner.do, 2)
        wait_until(lambda: work.batches == [[2]])
        with pytest.raises(ServiceUnavailable, match="busy"):
            combiner.do(4)
        assert combiner.queued == 0
        work.may_go.set()
        assert first.result(PATIENCE) == 4
    assert combiner.do(6) == 12
    assert work.batches == [[2], [6]]
