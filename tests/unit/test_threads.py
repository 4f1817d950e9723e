"""Calls of an event loop that block."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

import pytest

from ccat_workflow_manager.threads import Threads, in_thread
from tests.support.waiting import PATIENCE

_word: ContextVar[str] = ContextVar("word", default="")


def test_a_call_leaves_the_loop_and_has_the_variables_of_its_task() -> None:
    def call(number: int, *, more: int) -> tuple[int, str, bool]:
        return number + more, _word.get(), threading.current_thread() is threading.main_thread()

    async def task(word: str) -> tuple[int, str, bool]:
        _word.set(word)
        return await in_thread(call, 1, more=2)

    async def both() -> list[tuple[int, str, bool]]:
        return list(await asyncio.gather(task("a"), task("b")))

    assert asyncio.run(both()) == [(3, "a", False), (3, "b", False)]
    assert asyncio.run(task("another loop")) == (3, "another loop", False)


def test_what_a_call_raises_reaches_its_task() -> None:
    def fail() -> None:
        raise LookupError("no such run")

    with pytest.raises(LookupError, match="no such run"):
        asyncio.run(in_thread(fail))


def test_a_call_whose_task_is_cancelled_ends_in_its_thread() -> None:
    may_end, ended = threading.Event(), threading.Event()

    async def cancelled() -> None:
        loop, entered = asyncio.get_running_loop(), asyncio.Event()

        def call() -> None:
            loop.call_soon_threadsafe(entered.set)
            may_end.wait(PATIENCE)
            ended.set()

        task = asyncio.create_task(in_thread(call))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()
        assert await in_thread(ended.wait, 10)

    asyncio.run(cancelled())


def test_calls_one_after_the_other_share_a_thread() -> None:
    threads, used, ended = Threads(5, "test"), set(), threading.Event()

    def call(left: int) -> Callable[[], None]:
        used.add(threading.get_ident())
        return ended.set if left == 0 else partial(threads.submit, call, left - 1)

    threads.submit(call, 100)
    assert ended.wait(PATIENCE)
    assert len(used) == 1


def test_more_calls_than_threads_all_end() -> None:
    async def many() -> list[int]:
        return list(await asyncio.gather(*(in_thread(int, number) for number in range(200))))

    assert asyncio.run(many()) == list(range(200))


def test_a_forked_process_has_threads_of_its_own() -> None:
    """All threads of the parent wait for work when it forks. The child has none of them."""
    asyncio.run(in_thread(int, 1))
    child = os.fork()
    if child == 0:
        try:
            os._exit(asyncio.run(asyncio.wait_for(in_thread(int, 42), PATIENCE)))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_a_machine_without_threads_for_a_while_loses_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, may_end, ended = Threads(2, "t"), threading.Event(), threading.Semaphore(0)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def call(_: None) -> None:
        ended.release()

    def wait(_: None) -> None:
        may_end.wait(PATIENCE)
        ended.release()

    def in_shortage(submitted: Callable[[None], None]) -> None:
        with monkeypatch.context() as shortage:
            shortage.setattr(threading.Thread, "start", refuse)
            threads.submit(submitted, None)

    with pytest.raises(RuntimeError):
        in_shortage(call)
    threads.submit(wait, None)
    in_shortage(call)  # the thread that there is takes it later
    threads.submit(call, None)  # a second thread can be started again, and takes both
    assert all(ended.acquire(timeout=PATIENCE) for _ in range(2))
    may_end.set()
    assert ended.acquire(timeout=PATIENCE)
    assert not ended.acquire(blocking=False), "the call that was refused is not made"
    threads.close()
    assert threads.join(PATIENCE)
