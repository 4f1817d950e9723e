"""Walks every interleaving of the model up to its budget, and says what is wrong on the shortest way to it."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ccat_workflow_manager.lifecycle.states import FINISHED, Event, Status
from tests.model.moves import Move, moves
from tests.model.world import RUNNING, Label, Rules, World, is_over


@dataclass
class Walk:
    """What an exploration has found."""

    worlds: int = 0
    complete: bool = True
    """All was seen: the bound was not met."""
    wrong: str | None = None
    path: list[str] = field(default_factory=list)
    """The names of the moves that lead there."""


def explore(start: World, rules: Rules, most: int = 2_000_000) -> Walk:
    """Look at up to `most` worlds. Stops at the first that is wrong; the way to it is then the shortest."""
    start = start.canonical()
    gc.disable()  # millions of tuples without a cycle
    try:
        return _explore(start, rules, most)
    finally:
        gc.enable()


def _explore(start: World, rules: Rules, most: int) -> Walk:
    came_from: dict[World, tuple[World, str] | None] = {start: None}
    fair: dict[World, list[World]] = {}
    waiting = deque([start])
    walk = Walk()
    while waiting:
        world = waiting.popleft()
        fair[world] = []
        for move in moves(world, rules):
            after = move.world.canonical()
            if not move.is_misfortune:
                fair[world].append(after)
            if after not in came_from:
                came_from[after] = world, move.name
                if len(came_from) <= most:
                    waiting.append(after)
                else:
                    walk.complete = False
            if wrong := next(_wrong(world, move, rules), None):
                walk.wrong, walk.path = wrong, [*_path(came_from, world), move.name]
                walk.worlds = len(came_from)
                return walk
    walk.worlds = len(came_from)
    if walk.complete and (stuck := _stuck(fair)) is not None:
        walk.wrong, walk.path = f"nothing leads on from {stuck.row}", _path(came_from, stuck)
    return walk


def _path(came_from: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    names = []
    while (before := came_from[world]) is not None:
        world, name = before
        names.append(name)
    return names[::-1]


def _wrong(before: World, move: Move, rules: Rules) -> Iterator[str]:
    """What this move breaks."""
    after = move.world
    running = [job for job in after.jobs if job.state == RUNNING]
    if len({job.attempt for job in running}) < len(running):
        yield "two jobs of one attempt run"
    if rules.punctual:
        if len(running) > 1:
            yield "two attempts of one step run run"
        submitted = [job.attempt for job in after.jobs]
        if len(set(submitted)) < len(submitted):
            yield "two jobs of one attempt were submitted"
        if after.row.status is Status.CANCELLED and any(job.live for job in after.jobs):
            yield "CANCELLED, and its job lives"
    recorded = after.job(after.row.job)
    if is_over(after.row) and recorded is not None and recorded.live and recorded.attempt == after.row.attempt:
        yield f"{after.row.status}, and its recorded job lives"
    yield from _moved_on(before, move.labels, after)


def _moved_on(before: World, labels: tuple[Label, ...], after: World) -> Iterator[str]:
    if before.row.status is not after.row.status and not labels:
        yield f"from {before.row.status} to {after.row.status} without an event"
    for label in labels:
        if label.before is Status.COMPLETED or (label.before in FINISHED and label.event is not Event.RETRIED):
            yield f"{label.event} led from {label.before}, which is terminal, to {label.after}"


def _stuck(fair: dict[World, list[World]]) -> World | None:
    """A world from which no way without misfortune leads to the end of the step run and of its jobs."""
    behind: dict[World, list[World]] = {}
    for world, following in fair.items():
        for after in following:
            behind.setdefault(after, []).append(world)
    good = {world for world in fair if is_over(world.row) and not any(job.live for job in world.jobs)}
    waiting = deque(good)
    while waiting:
        for before in behind.get(waiting.popleft(), ()):
            if before not in good:
                good.add(before)
                waiting.append(before)
    return next((world for world in fair if world not in good), None)
