"""One program, run with our flow package or with RADICAL AsyncFlow; prints how many seconds its parts took as JSON.

python program.py ours|asyncflow WORKFLOWS PROGRAMS TASKS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccat_workflow_manager.flow import WorkflowEngine


async def chains(flow: WorkflowEngine, workflows: int) -> float:
    """Workflows of three dependent function tasks each, all at the same time."""

    @flow.function_task
    async def first(*after: Any) -> int:
        return 1

    @flow.function_task
    async def second(*after: Any) -> int:
        return 2

    @flow.function_task
    async def third(*after: Any) -> int:
        return 3

    async def workflow() -> int:
        return int(await third(second(first())))

    began = time.perf_counter()
    assert await asyncio.gather(*(workflow() for _ in range(workflows))) == [3] * workflows
    return time.perf_counter() - began


async def programs(flow: WorkflowEngine, count: int) -> float:
    """Tasks that run /bin/true."""

    @flow.executable_task
    async def true() -> str:
        return "/bin/true"

    began = time.perf_counter()
    await asyncio.gather(*(true() for _ in range(count)))
    return time.perf_counter() - began


async def nothing(flow: WorkflowEngine, tasks: int) -> float:
    """Tasks on a backend that runs nothing, 1,000 at a time."""

    @flow.function_task
    async def task() -> None: ...

    began = time.perf_counter()
    for start in range(0, tasks, 1000):
        await asyncio.gather(*(task() for _ in range(min(1000, tasks - start))))
    return time.perf_counter() - began


async def main(library: str, workflows: int, count: int, tasks: int) -> dict[str, float]:
    module = import_module("ccat_workflow_manager.flow" if library == "ours" else "radical.asyncflow")
    took = {}
    for name, part, size in (("chains", chains, workflows), ("programs", programs, count)):
        flow = await module.WorkflowEngine.create(backend=await module.LocalExecutionBackend(ThreadPoolExecutor()))
        took[name] = await part(flow, size)
        await flow.shutdown()
    flow = await module.WorkflowEngine.create(backend=module.NoopExecutionBackend())
    took["nothing"] = await nothing(flow, tasks)
    await flow.shutdown()
    return took


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))))
