"""Which managers run the loops, as they say it in Redis. Those that serve the API alone do not report."""

from __future__ import annotations

from typing import cast

from ccat_workflow_manager.doorbell import Doorbell, required

_MANAGERS = "ccat:managers"
_ALIVE_SECONDS = 20
"""For so long a manager is taken for alive that has not said so again."""


def report(doorbell: Doorbell, manager: str) -> None:
    """Record that this manager lives, and forget those that have not said so for a while."""
    with doorbell.best_effort():
        now = _now(doorbell)
        pipeline = doorbell.redis.pipeline()
        pipeline.zadd(_MANAGERS, {manager: now})
        pipeline.zremrangebyscore(_MANAGERS, "-inf", now - _ALIVE_SECONDS)
        pipeline.execute()


def forget(doorbell: Doorbell, manager: str) -> None:
    """The manager ends in order."""
    with doorbell.best_effort():
        doorbell.redis.zrem(_MANAGERS, manager)


def number_alive(doorbell: Doorbell) -> int:
    """How many managers live. Raises ServiceUnavailable."""
    with required():
        return cast("int", doorbell.redis.zcount(_MANAGERS, _now(doorbell) - _ALIVE_SECONDS, "+inf"))


def _now(doorbell: Doorbell) -> int:
    """The time of the server: the clocks of managers need not agree."""
    return cast("tuple[int, int]", doorbell.redis.time())[0]
