"""What a pipeline asks for that no queue of its backend can give: hints for people, never a refusal.

The queues are those that a worker listed last; a site may change them at any time. Pure text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ccat_workflow_manager.json_values import listed
from ccat_workflow_manager.lifecycle.models import Resources

_NAMED = 8


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What one job may ask of a queue at most; None: not known, or no limit."""

    name: str
    default: bool = False
    """Jobs that name no queue go there."""
    cpus: float | None = None
    """On one node, as all that is not time."""
    memory_gb: float | None = None
    gpus: float | None = None
    hours: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a step asks for."""

    step: str
    backend: str
    resources: Resources


def hints(steps: Iterable[Asked], queues: Mapping[str, Sequence[QueueLimits]]) -> list[str]:
    """What is doubtful about these steps, in one sentence each; nothing about backends whose queues are not known."""
    return [hint for asked in steps if (known := queues.get(asked.backend)) for hint in _about(asked, known)]


def _about(asked: Asked, known: Sequence[QueueLimits]) -> list[str]:
    wanted = asked.resources.partition
    there = f"there is {listed([queue.name for queue in known], _NAMED)}"
    if wanted is None:
        chosen = [queue for queue in known if queue.default] or known
        default = any(queue.default for queue in chosen)
    else:
        names = [name.strip() for name in wanted.split(",")]
        chosen = [queue for queue in known if queue.name in names]
        default = False
        if missing := [name for name in names if name not in {queue.name for queue in known}]:
            text = f"the step {asked.step} names the partition {missing[0]}, which {asked.backend} does not have"
            return [f"{text}; {there}"]
    where = _where(asked.backend, chosen, known, default=default)
    found = []
    for what, amount, limits in _amounts(asked.resources, chosen):
        most = max((limit for limit in limits if limit is not None), default=None)
        if most is not None and None not in limits and amount > most:
            much = f"{amount:g} {what.rstrip('s') if amount == 1 else what}"
            found.append(f"the step {asked.step} asks for {much}, but {where} at most {most:g}")
    return found


def _amounts(resources: Resources, queues: Sequence[QueueLimits]) -> list[tuple[str, float, list[float | None]]]:
    return [
        ("CPUs", resources.cpu, [queue.cpus for queue in queues]),
        ("GB of memory", resources.memory_gb, [queue.memory_gb for queue in queues]),
        ("GPUs", resources.gpu, [queue.gpus for queue in queues]),
        ("hours", resources.time_hours, [queue.hours for queue in queues]),
    ]


def _where(backend: str, chosen: Sequence[QueueLimits], known: Sequence[QueueLimits], *, default: bool) -> str:
    if len(chosen) == len(known) > 1:
        return f"no partition of {backend} gives more: it is"
    names = listed([queue.name for queue in chosen], _NAMED)
    return f"the {'default ' if default else ''}partition {names} of {backend} gives"
