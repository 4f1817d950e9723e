"""Requests that come at the same time, carried out together: one transaction for all of them instead of one each.

Nobody waits for company: a request that comes alone is carried out alone, at once. Those that come while others are
being carried out gather meanwhile, and the first of them takes them all. The busier it gets, the cheaper each becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Generic, TypeVar

from ccat_workflow_manager.errors import RequestError, WorkflowError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class _Place(Generic[T, R]):
    """One request in the queue."""

    item: T
    called: Event = field(default_factory=Event)
    """Set when the outcome is there, or when it is the turn of this request to lead."""
    batch: Sequence[_Place[T, R]] = ()
    outcome: R | RequestError | None = None


class Combiner(Generic[T, R]):
    """Calls `work` with one or several items; it answers with an outcome for each, in order.

    `work` runs in the threads of the callers, in at most `at_once` of them. When it fails for several items, each
    caller tries again alone, so that nobody is told of another's fault. A try that failed may have been carried out all
    the same: `work` has to know what an item has led to before.
    """

    def __init__(
        self, work: Callable[[Sequence[T]], Sequence[R | RequestError]], *, at_once: int = 2, most: int = 100
    ) -> None:
        self._work = work
        self._at_once = at_once
        self._most = most
        self._lock = Lock()
        self._waiting: list[_Place[T, R]] = []
        self._leaders = 0

    def do(self, item: T) -> R:
        """Have one item carried out: its outcome, or the error that it met."""
        place: _Place[T, R] = _Place(item)
        with self._lock:
            if self._leaders < self._at_once:
                self._leaders += 1
                place.batch = (place,)
            else:
                self._waiting.append(place)
        if not place.batch:
            place.called.wait()
        if place.batch:
            self._lead(place.batch)
        outcome = self._work([item])[0] if place.outcome is None else place.outcome
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    def _lead(self, batch: Sequence[_Place[T, R]]) -> None:
        try:
            if len(batch) > 1:
                outcomes = self._work([place.item for place in batch])
                for place, outcome in zip(batch, outcomes, strict=True):
                    place.outcome = outcome
            else:
                batch[0].outcome = self._work([batch[0].item])[0]
        except WorkflowError:
            if len(batch) == 1:
                raise
        finally:
            for place in batch[1:]:
                place.called.set()
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            if not batch:
                self._leaders -= 1
                return
        batch[0].batch = batch
        batch[0].called.set()
