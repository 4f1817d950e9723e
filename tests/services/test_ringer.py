"""Messages for new runs are sent beside the requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from queue import SimpleQueue
from threading import Event
from typing import Any, cast

from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.services.ringer import Ringer
from tests.support.waiting import PATIENCE


class SlowDoorbell:
    """Rings when it is allowed to."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[Mapping[str, int]] = SimpleQueue()
        self.allowed = Event()

    def ring_all(self, bell: Bell, ready: Mapping[str, int]) -> None:
        assert bell is Bell.LAUNCH
        self.begun.put(dict(ready))
        assert self.allowed.wait(PATIENCE)


def test_what_comes_while_a_message_is_sent_shares_the_next_one() -> None:
    doorbell = SlowDoorbell()
    ringer = Ringer(cast("Doorbell", cast("Any", doorbell)))
    ringer.ring(Counter(local=1))
    assert doorbell.begun.get(timeout=PATIENCE) == {"local": 1}
    ringer.ring(Counter(local=2))
    ringer.ring(Counter(local=1, noop=4))
    ringer.ring(Counter())
    doorbell.allowed.set()
    assert doorbell.begun.get(timeout=PATIENCE) == {"local": 3, "noop": 4}
    ringer.ring(Counter(noop=1))
    ringer.close()
    assert doorbell.begun.get_nowait() == {"noop": 1}
    assert doorbell.begun.empty()
