"""What the live stream names can be fetched at once, and is as it is now."""

from __future__ import annotations

import asyncio
import math
from itertools import count

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.dashboard.live import Live
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.services.run_request import RunRequest
from tests.api.rest import ONE
from tests.support.waiting import PATIENCE


class Noted(Answers):
    """Takes a number each time something has changed, from those of the answers."""

    def __init__(self, numbers: count[int]) -> None:
        super().__init__()
        self._numbers = numbers
        self.changed_at = -1

    def forget(self, kept_at_most: float = math.inf) -> None:
        super().forget(kept_at_most)
        self.changed_at = next(self._numbers)


def test_a_change_that_is_named_is_in_no_answer_of_before(context: Context) -> None:
    numbers = count()
    answers = Noted(numbers)

    async def follow() -> bytes:
        live = Live(context, answers)
        stream = live.stream(frozenset({"runs"}))
        assert (await anext(stream)).startswith(b":")
        assert b'"*"' in await anext(stream)  # the first look cannot tell what has changed before it
        told = asyncio.ensure_future(anext(stream))
        while not told.done():
            answers.get("runs", lambda: next(numbers))
            context.submitter.submit(RunRequest(spec=ONE), actor="test")
            await asyncio.wait([told], timeout=0.1)
        assert answers.get("runs", lambda: next(numbers)) > answers.changed_at >= 0
        live.close()
        return told.result()

    assert b'"runs"' in asyncio.run(asyncio.wait_for(follow(), PATIENCE))
