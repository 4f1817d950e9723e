"""The same program on any backend of the registry: only the line that makes the backend differs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.flow import DependencyFailed, FlowError, TaskFailed, WorkflowEngine
from tests.programs.running import on

SMALL = {"cpu": 1, "memory_gb": 0.1, "time_hours": 0.1}
"""What each task asks for."""


def require_executable_tasks(backend: str, work_dir: Path, /, **config: Any) -> None:
    """Three scans and their sum, a task that fails, one behind it, and one that is cancelled."""
    work_dir.mkdir(exist_ok=True)

    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task(task_description=SMALL)
        async def calibrate(scan: int) -> list[str]:
            return ["sh", "-c", 'echo "$1" > "scan-$1"; printf %s "$1"', "sh", str(scan)]

        @flow.executable_task(task_description=SMALL)
        async def add(*scans: str) -> list[str]:
            return ["sh", "-c", 'echo "$*"; cat scan-*', "sh", *scans]

        @flow.executable_task(task_description=SMALL)
        async def broken(*after: Any) -> list[str]:
            return ["sh", "-c", "echo said; echo why >&2; exit 3"]

        @flow.executable_task(task_description=SMALL)
        async def endless() -> list[str]:
            return ["sleep", "1000"]

        stopped = endless()
        assert await add(*[calibrate(scan) for scan in (1, 2, 3)]) == "1 2 3\n1\n2\n3\n"
        first = broken()
        with pytest.raises(TaskFailed) as failed:
            await first
        assert (failed.value.exit_code, failed.value.stdout, failed.value.stderr) == (3, "said\n", "why\n")
        with pytest.raises(DependencyFailed, match="broken"):
            await add(first)
        stopped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopped

    on(program, backend, work_dir=work_dir, **config)
    assert sorted(path.name for path in work_dir.iterdir()) == ["scan-1", "scan-2", "scan-3"]


def require_function_tasks(backend: str, work_dir: Path, /, **config: Any) -> None:
    """Functions travel, with their arguments, results and errors."""
    work_dir.mkdir(exist_ok=True)

    async def program(flow: WorkflowEngine) -> None:
        @flow.function_task(task_description=SMALL)
        def square(number: int) -> int:
            return number**2

        @flow.function_task(task_description=SMALL)
        async def total(*numbers: int) -> int:
            if not numbers:
                raise ValueError("nothing to add")
            return sum(numbers)

        assert await total(square(2), square(3)) == 13
        with pytest.raises(ValueError, match="nothing to add"):
            await total()

    on(program, backend, work_dir=work_dir, **config)


def require_no_function_tasks(backend: str, work_dir: Path, /, **config: Any) -> None:
    """The program is told where it defines the task, and where functions can run."""

    async def program(flow: WorkflowEngine) -> None:
        with pytest.raises(FlowError, match=f"{backend}.*do not travel.*dask or radical_pilot"):

            @flow.function_task
            def square(number: int) -> int:
                return number**2

    on(program, backend, work_dir=work_dir, **config)
