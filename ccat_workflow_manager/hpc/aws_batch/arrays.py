"""The states of the children of an array, from as few listings as possible. Pure.

The parent shows how many children are in which state, so only those states are listed that have changed: children that
are over are listed once, and children that are neither over nor started are waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ccat_workflow_manager.hpc.aws_batch.status import OVER, STARTED, DescribedJob

T = TypeVar("T")

DESCRIBED_DIRECTLY = 100
"""Of an array with so many unfinished children, or fewer, each is described: with others they fit into one call."""


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """All items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def child_id(number: str, index: int) -> str:
    return f"{number}:{index}"


def index_of(job_id: str) -> int | None:
    """The index of a child in its array, from its id."""
    digits = job_id.rpartition(":")[2] if ":" in job_id else ""
    return int(digits) if digits.isdecimal() else None


@dataclass(slots=True)
class ArrayChildren:
    """What the listings of one array have shown."""

    number: str
    over: dict[int, DescribedJob] = field(default_factory=dict)
    started: dict[int, DescribedJob] = field(default_factory=dict)
    _counts: Mapping[str, int] = field(default_factory=dict)

    def to_list(self, parent: DescribedJob) -> list[str]:
        """The states whose children have to be listed now."""
        counts = parent.children
        wanted = [state for state in sorted(OVER) if counts.get(state, 0) > self._known_over(state)]
        changed = any(counts.get(state, 0) != self._counts.get(state, 0) for state in STARTED | OVER)
        if changed:
            wanted += [state for state in sorted(STARTED) if counts.get(state, 0)]
        return wanted

    def listed(self, parent: DescribedJob, states: Iterable[str], children: Iterable[DescribedJob]) -> None:
        """Take the results of the listings of these states."""
        states = set(states)
        found = {index: job for job in children if (index := index_of(job.job_id)) is not None}
        self.over |= {index: job for index, job in found.items() if job.over}
        if states & STARTED or not any(parent.children.get(state, 0) for state in STARTED):
            self.started = {index: job for index, job in found.items() if job.status in STARTED}
        self.started = {index: job for index, job in self.started.items() if index not in self.over}
        # The counts may be ahead of the listing; then the states are listed again.
        complete = len(self.started) == sum(parent.children.get(state, 0) for state in STARTED)
        self._counts = dict(parent.children) if complete else {}

    def child(self, parent: DescribedJob, index: int) -> DescribedJob:
        """One child: over, started, or else waiting."""
        known = self.over.get(index) or self.started.get(index)
        if known is not None:
            return known
        status = "RUNNABLE" if parent.children.get("RUNNABLE", 0) or parent.status == "PENDING" else parent.status
        if status in OVER:
            # The parent is over, so the child is, but its own end is not shown yet.
            status = "RUNNING"
        return DescribedJob(
            job_id=child_id(self.number, index),
            name=parent.name,
            status=status,
            status_reason=parent.status_reason,
            created_at=parent.created_at,
        )

    def _known_over(self, state: str) -> int:
        return sum(job.status == state for job in self.over.values())
