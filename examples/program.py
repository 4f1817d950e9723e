"""Estimate pi with programs and functions; the first argument says on which backend.

python examples/program.py concurrent
"""

from __future__ import annotations

import asyncio
import sys

from ccat_workflow_manager.flow import WorkflowEngine, factory

SAMPLES = 20_000
COUNT = """
import random, sys
random.seed(int(sys.argv[1]))
print(sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(int(sys.argv[2]))))
"""


async def main(name: str) -> None:
    backend = await factory.create_backend(name)
    async with await WorkflowEngine.create(backend=backend) as flow:

        @flow.executable_task(task_description={"max_attempts": 2})
        async def hits(seed: int) -> list[str]:
            return [sys.executable, "-c", COUNT, str(seed), str(SAMPLES)]

        @flow.function_task
        def pi(*printed: str) -> float:
            return 4 * sum(int(each) for each in printed) / (SAMPLES * len(printed))

        async with flow.workflow_scope("pi"):
            print(round(await pi(*[hits(seed) for seed in range(4)]), 1))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "concurrent"))
