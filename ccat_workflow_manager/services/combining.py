"""Combines concurrent calls into batches: one transaction for several requests.

A call never waits for others to arrive. While `at_once` batches are in progress, further calls queue up; the thread
that finishes a batch hands all queued calls to the first of them as the next batch. Decision 0017 has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Generic, TypeVar

from ccat_workflow_manager.errors import RequestError, ServiceUnavailable, WorkflowError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Call(Generic[T, R]):
    """One call of `do`."""

    item: T
    wake: Event = field(default_factory=Event)
    """Set when the outcome is known, or when this call has to carry out `batch`."""
    batch: Sequence[_Call[T, R]] = ()
    outcome: R | RequestError | None = None


class Combiner(Generic[T, R]):
    """Calls `work` with one or several items. `work` returns an outcome for each item, in order.

    `work` runs in the threads of the callers, in at most `at_once` of them at a time. If it raises for several items,
    each caller repeats its item alone, so that no caller gets the error of another. The failed batch may have been
    committed all the same: `work` must recognise an item that it has processed before.

    A call gives up after `patience` seconds in the queue, and after as many again in the batch of another caller.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R | RequestError]],
        *,
        at_once: int = 2,
        most: int = 100,
        patience: float = 30,
    ) -> None:
        self._work = work
        self._patience = patience
        self._at_once = at_once
        self._most = most
        self._lock = Lock()
        self._queue: list[_Call[T, R]] = []
        self._in_progress = 0

    @property
    def queued(self) -> int:
        """How many calls wait for the next batch."""
        return len(self._queue)

    def do(self, item: T) -> R:
        """Process one item. Returns its outcome, or raises it if it is an error."""
        call: _Call[T, R] = _Call(item)
        with self._lock:
            if self._in_progress < self._at_once:
                self._in_progress += 1
                call.batch = (call,)
            else:
                self._queue.append(call)
        if not call.batch:
            self._wait(call)
        if call.batch:
            self._run(call.batch)
        outcome = self._work([item])[0] if call.outcome is None else call.outcome
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    def _wait(self, call: _Call[T, R]) -> None:
        """Wait until the outcome of the call is known or it has to carry out a batch. Raises ServiceUnavailable."""
        if call.wake.wait(self._patience):
            return
        with self._lock:
            if call in self._queue:
                self._queue.remove(call)
                raise ServiceUnavailable(f"the service is busy: {self._patience:g} s were not enough; try again")
        if not call.wake.wait(self._patience):
            raise ServiceUnavailable(
                f"the database did not answer within {self._patience:g} s: what was asked for may have been done"
            )

    def _run(self, batch: Sequence[_Call[T, R]]) -> None:
        try:
            outcomes = self._work([call.item for call in batch])
            for call, outcome in zip(batch, outcomes, strict=True):
                call.outcome = outcome
        except WorkflowError:
            if len(batch) == 1:
                raise
        finally:
            for call in batch[1:]:
                call.wake.set()
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            batch, self._queue = self._queue[: self._most], self._queue[self._most :]
            if not batch:
                self._in_progress -= 1
                return
            batch[0].batch = batch
            batch[0].wake.set()
