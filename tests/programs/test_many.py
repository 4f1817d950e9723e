"""Many tasks: memory and the number of threads stay as they are."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc

import pytest

from ccat_workflow_manager.flow import TaskFuture, WorkflowEngine
from tests.programs.running import on

ROUNDS, TASKS = 100, 10
MOST_BYTES_A_TASK = 300
"""Caches of a fixed size fill up meanwhile; what is kept of a block and two tasks would be 2,000 bytes and more."""


@pytest.mark.parametrize("backend", ["concurrent", "noop"])
def test_finished_tasks_leave_nothing(backend: str) -> None:
    async def program(flow: WorkflowEngine) -> float:
        @flow.function_task
        def first(number: int) -> int:
            return number

        @flow.function_task
        async def second(value: int) -> list[int]:
            return [value] * 10

        @flow.block
        async def pair(number: int) -> object:
            return await second(first(number))

        async def tasks() -> None:
            await asyncio.gather(*(pair(number) for number in range(TASKS)))

        async def used_after(rounds: int) -> int:
            for _ in range(rounds):
                await tasks()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await used_after(ROUNDS // 2)
            return (await used_after(ROUNDS) - before) / (ROUNDS * TASKS)
        finally:
            tracemalloc.stop()

    others = set(threading.enumerate())
    assert on(program, backend) < MOST_BYTES_A_TASK
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, TaskFuture)]
    assert {each for each in threading.enumerate() if each.name.startswith("flow-")} <= others
