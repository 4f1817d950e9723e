"""Messages for new runs are sent beside the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from threading import Event
from typing import Any, cast
from uuid import UUID

from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.services.ringer import Ringer
from tests.support.waiting import PATIENCE

A, B, C = (UUID(int=number) for number in range(3))


class SlowDoorbell:
    """Rings when it is allowed to."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[Mapping[str, Sequence[UUID]]] = SimpleQueue()
        self.allowed = Event()

    def ring_all(self, bell: Bell, ready: Mapping[str, Sequence[UUID]]) -> None:
        assert bell is Bell.LAUNCH
        self.begun.put({backend: list(ids) for backend, ids in ready.items()})
        assert self.allowed.wait(PATIENCE)


def test_what_comes_while_a_message_is_sent_shares_the_next_one() -> None:
    doorbell = SlowDoorbell()
    ringer = Ringer(cast("Doorbell", cast("Any", doorbell)))
    ringer.ring({"local": [A]})
    assert doorbell.begun.get(timeout=PATIENCE) == {"local": [A]}
    ringer.ring({"local": [B]})
    ringer.ring({"local": [C], "noop": [C]})
    ringer.ring({})
    doorbell.allowed.set()
    assert doorbell.begun.get(timeout=PATIENCE) == {"local": [B, C], "noop": [C]}
    ringer.ring({"noop": [A]})
    ringer.close()
    assert doorbell.begun.get_nowait() == {"noop": [A]}
    assert doorbell.begun.empty()
