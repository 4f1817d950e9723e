"""Where a call is made: in which workflow, and inside which blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ccat_workflow_manager.flow.errors import FlowError
from ccat_workflow_manager.flow.future import BlockFuture, TaskFuture


@dataclass(frozen=True, slots=True)
class Scope:
    """What a context variable of the engine holds."""

    workflow_id: str | None = None
    blocks: tuple[BlockFuture, ...] = ()


def enter(
    scope: Scope,
    future: TaskFuture,
    dependencies: Sequence[asyncio.Future[Any]],
    check_await: Callable[[BlockFuture], None],
) -> None:
    """Record a call in the blocks in which it is made.

    Raises FlowError for a call that would wait for one of these blocks, directly or through other blocks.
    """
    awaited = {each for each in dependencies if isinstance(each, BlockFuture) and not each.done()}
    around = set(scope.blocks)
    seen: set[BlockFuture] = set()
    waiting = list(awaited)
    while waiting:
        block = waiting.pop()
        if block in around:
            raise FlowError(
                f"task {future.name} was called in the block {block.id} and depends on it, so neither could end"
            )
        if block not in seen:
            seen.add(block)
            waiting += [each for each in block.waits_for if not each.done()]
    if isinstance(future, BlockFuture):
        future.waits_for |= awaited
        future.check_await = check_await
    for block in scope.blocks:
        block.waits_for |= awaited
        block.members.add(future)
