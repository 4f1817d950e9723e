"""Words for the queues of backends. What a worker of an older version has stored may lack some of the facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccat_workflow_manager.dashboard import times

_AT_ONCE_SECONDS = 5.0
_MOST_HOURS = 72
_ALWAYS = ("full", "mixed", "idle")
_TB = 1024


def nodes_text(nodes: Mapping[str, int]) -> list[tuple[str, bool]]:
    """`38 full, 6 mixed, 2 idle, 2 down`, as pieces of text that are bad news or not."""
    usual = [f"{nodes.get(state, 0):,} {state}" for state in _ALWAYS]
    usual += [f"{number:,} of another state" for number in (nodes.get("other", 0),) if number]
    down = nodes.get("down", 0)
    return [(", ".join(usual) + (", " if down else ""), False), *([(f"{down:,} down", True)] if down else [])]


def allows(limits: Mapping[str, Any] | None) -> str:
    """The most that one job may ask for: `24 h · 128 GB · 4 GPUs`."""
    known = limits or {}
    hours, memory, gpus = (known.get(name) for name in ("hours", "memory_gb", "gpus"))
    parts = [] if hours is None else [_time_limit(hours)]
    if memory:
        parts.append(f"{times.number(memory / _TB)} TB" if memory >= _TB else f"{times.number(memory)} GB")
    parts += [f"{times.number(gpus)} {'GPU' if gpus == 1 else 'GPUs'}"] if gpus else []
    return " · ".join(parts)


def _time_limit(hours: float) -> str:
    if hours < 1:
        return times.duration(hours * 3600)
    return f"{times.number(hours)} h" if hours <= _MOST_HOURS else f"{times.number(hours / 24)} d"


def start_of_ours(queue: Mapping[str, Any]) -> str:
    """How long our jobs wait now: of those that started lately, else of the first that waits."""
    waited, waiting = queue.get("waited_seconds"), queue.get("waiting_seconds")
    if waited is not None:
        return "at once" if waited < _AT_ONCE_SECONDS else f"about {times.age(waited)}"
    return "" if waiting is None else f"over {times.age(waiting)}"
