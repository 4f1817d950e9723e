"""Replays what real deployments have stored: the events of each step run must be a path of the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from functools import cache
from heapq import heappop, heappush
from itertools import count
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.states import TRANSITIONS, Event, Status
from tests.model.moves import TASKS, moves
from tests.model.world import UNLIMITED, Budget, Label, Row, Rules, World

_EVENTS = """
SELECT step_run_id, event, from_status, to_status, attempt FROM events
WHERE run_id = ANY(:ids) AND step_run_id IS NOT NULL ORDER BY id
"""
_ANYTHING = Budget(*[UNLIMITED] * len(Budget._fields))._replace(takings=3)
_RULES = Rules(punctual=False)
_MOST_ATTEMPTS = 100
_MOST_WORLDS = 200_000
"""A path is found among some hundred; a trace that is none would take for ever."""

Trace = tuple[Label, ...]


def strangers(unit: UnitOfWork, run_ids: Collection[UUID]) -> list[str]:
    """The step runs whose events are no path of the model, with these events."""
    traces = traces_of(unit, run_ids)
    bad = {trace for trace in set(traces.values()) if not is_path(trace)}
    return [f"{step_run_id}: {_shown(trace)}" for step_run_id, trace in traces.items() if trace in bad]


def traces_of(unit: UnitOfWork, run_ids: Collection[UUID]) -> dict[UUID, Trace]:
    found: dict[UUID, list[Label]] = defaultdict(list)
    for step_run_id, event, before, after, attempt in unit.execute(_EVENTS, {"ids": list(run_ids)}):
        if event != Event.CREATED:
            found[step_run_id].append(Label(Event(event), Status(before), Status(after), attempt))
        else:
            found[step_run_id] = []
    return {step_run_id: tuple(labels) for step_run_id, labels in found.items()}


@cache
def is_path(trace: Trace) -> bool:
    """Whether the model can store exactly these events, in this order. Anything may go wrong meanwhile.

    Looks first where most of the trace is stored and least went wrong.
    """
    if any(TRANSITIONS.get((label.before, label.event)) is not label.after for label in trace):
        return False
    start = _with_all_messages(World(Row(max_attempts=_MOST_ATTEMPTS), budget=_ANYTHING))
    seen = {(start, 0)}
    number = count()
    waiting = [(0, 0, next(number), start)]
    while waiting and len(seen) < _MOST_WORLDS:
        left, misfortunes, _, world = heappop(waiting)
        stored = -left
        if stored == len(trace):
            return True
        for move in moves(world, _RULES):
            then = stored + len(move.labels)
            after = _with_all_messages(move.world)
            if trace[stored:then] == move.labels and (after, then) not in seen:
                seen.add((after, then))
                heappush(waiting, (-then, misfortunes + move.is_misfortune, next(number), after))
    return False


def _with_all_messages(world: World) -> World:
    """Messages may be lost and doubled here, so one of each kind is always under way."""
    return world._replace(bells=frozenset(TASKS)).canonical()


def _shown(trace: Trace) -> str:
    return " ".join(f"{label.event}:{label.before}->{label.after}#{label.attempt}" for label in trace)
