"""The turns of the loops of a manager."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ccat_workflow_manager.managers.schedule import Loop, Schedule
from tests.support.waiting import wait_until


class Turns:
    """Counts the turns of a loop, and the threads that it had them in."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self.threads: set[threading.Thread] = set()
        self._before = before

    def tick(self) -> None:
        self._before()
        self.threads.add(threading.current_thread())
        self.count += 1


@contextmanager
def running(*turns: Turns, seconds: float = 0.01) -> Iterator[Schedule]:
    schedule = Schedule([Loop(f"{number}", seconds, each.tick) for number, each in enumerate(turns)])
    schedule.start()
    yield schedule
    schedule.stop()
    schedule.join(60)


def has_turns(turns: Turns, more: int = 3) -> None:
    before = turns.count
    wait_until(lambda: turns.count >= before + more, what="more turns")


def test_loops_share_a_thread_and_end() -> None:
    loops = [Turns() for _ in range(10)]
    with running(*loops):
        for each in loops:
            has_turns(each)
    threads = set[threading.Thread]().union(*(each.threads for each in loops))
    assert len(threads) <= 2  # a slow machine may have brought the guard to add one
    assert not any(each.is_alive() for each in threads)


def test_a_tick_that_hangs_delays_no_other_loop() -> None:
    go_on = threading.Event()
    hung, others = Turns(go_on.wait), [Turns(), Turns()]
    with running(hung, *others):
        for each in others:
            has_turns(each)
        assert hung.count == 0
        go_on.set()
        for each in (hung, *others):
            has_turns(each)
    assert not any(each.is_alive() for turns in (hung, *others) for each in turns.threads)


def test_a_tick_that_fails_is_followed_by_the_next_one() -> None:
    tried = Turns()

    def fail() -> None:
        tried.tick()
        raise ValueError("of a test")

    with running(Turns(fail), Turns()):
        has_turns(tried)


def test_a_loop_has_no_turn_before_its_time() -> None:
    rare, frequent = Turns(), Turns()
    schedule = Schedule([Loop("rare", 3600, rare.tick), Loop("frequent", 0.01, frequent.tick)])
    schedule.start()
    has_turns(frequent, 20)
    schedule.stop()
    schedule.join(60)
    assert rare.count == 1
