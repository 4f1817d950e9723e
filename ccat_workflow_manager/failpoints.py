"""Fault points: names for every side effect, so that a test can make a process fail exactly there.

They are not armed in production: a point is then a look at one variable. `tests/support/armed.py`
arms points; docs/reliability.md lists all points and what they have survived. The first part of a name says what is
touched: `commit` a transaction, `bell` Redis, `backend` a scheduler, `command` a program of it, `files` the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

R = TypeVar("R")

BEFORE, AFTER = "before", "after"


class Faults(Protocol):
    """What an armed point calls."""

    def at(self, name: str, moment: str) -> None: ...

    def around(self, name: str, action: Callable[[], R]) -> R: ...

    def enter(self, process: str) -> None: ...


_armed: Faults | None = None


def arm(faults: Faults | None) -> None:
    """From now on ask `faults` at every point of this process; None: no more."""
    global _armed  # noqa: PLW0603  one switch for the whole process, and nothing to pass through every layer
    _armed = faults


def enter(process: str) -> None:
    """Say what this process is (`manager`, `worker`), since a fault may be meant for one of them."""
    if _armed is not None:
        _armed.enter(process)


def point(name: str, moment: str = BEFORE) -> None:
    """Here something is about to happen, or has just happened."""
    if _armed is not None:
        _armed.at(name, moment)


def around(name: str, action: Callable[[], R]) -> R:
    """Do `action`, with a point before it and one after it."""
    return action() if _armed is None else _armed.around(name, action)
