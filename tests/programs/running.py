"""Runs a program of the flow package to its end, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from ccat_workflow_manager.flow import WorkflowEngine, factory
from ccat_workflow_manager.hpc.attempt import process_tree
from tests.support.waiting import PATIENCE, wait_until

T = TypeVar("T")
DEADLINE_SECONDS = 4 * PATIENCE


def run(program: Callable[[], Awaitable[T]]) -> T:
    """The result of a program. Fails if it hangs."""

    async def limited() -> T:
        return await asyncio.wait_for(program(), DEADLINE_SECONDS)

    return asyncio.run(limited())


def on(
    program: Callable[[WorkflowEngine], Awaitable[T]],
    backend: str = "concurrent",
    /,
    work_dir: Any = None,
    **config: Any,
) -> T:
    """The result of a program that gets an engine on a new backend."""

    async def with_engine() -> T:
        made = await factory.create_backend(backend, config=config)
        async with await WorkflowEngine.create(backend=made, work_dir=work_dir) as flow:
            return await program(flow)

    return run(with_engine)


def lives(file: Path) -> bool:
    """Whether the process whose id a program has written to a file runs. False before it is written."""
    text = file.read_text() if file.exists() else ""
    process = process_tree.look(int(text)) if text.endswith("\n") else None
    return process is not None and process.alive


async def until_lives(file: Path) -> None:
    """Wait for that process."""
    await asyncio.to_thread(wait_until, lambda: lives(file), what=f"the process in {file}")
