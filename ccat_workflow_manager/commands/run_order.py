"""The order of a list of runs."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

Run = dict[str, Any]


class Order(StrEnum):
    """What a list of runs is sorted by."""

    FAILED = "failed"
    """Those that failed first, then the newest."""
    CREATED = "created"
    """The newest first."""
    FINISHED = "finished"
    """The last to finish first, before them those that are not over."""
    PIPELINE = "pipeline"
    STATUS = "status"


_KEYS: dict[Order, Callable[[Run], Any]] = {
    Order.FAILED: lambda run: run["status"] != "FAILED",
    Order.PIPELINE: lambda run: run["pipeline"],
    Order.STATUS: lambda run: run["status"],
}


def in_order(found: list[Run], order: Order) -> list[Run]:
    """The runs, which are the newest first, in another order; those that are equal in it stay the newest first."""
    if order is Order.CREATED:
        return found
    if order is Order.FINISHED:
        going = [run for run in found if run["finished_at"] is None]
        over = [run for run in found if run["finished_at"] is not None]
        return going + sorted(over, key=lambda run: str(run["finished_at"]), reverse=True)
    return sorted(found, key=_KEYS[order])
