"""What the live stream names can be fetched at once, and is as it is now."""

from __future__ import annotations

import asyncio
from itertools import count

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.dashboard.live import Live
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.services.run_request import RunRequest
from tests.api.rest import ONE

_PATIENCE = 60.0


def test_a_change_that_is_named_is_in_no_answer_of_before(context: Context) -> None:
    answers, numbers = Answers(), count()

    async def follow() -> tuple[bytes, int]:
        live = Live(context, answers)
        stream = live.stream(frozenset({"runs"}))
        assert (await anext(stream)).startswith(b":")
        told = asyncio.ensure_future(anext(stream))
        while not told.done():  # the first look only remembers how things are
            before = answers.get("runs", lambda: next(numbers))
            context.submitter.submit(RunRequest(spec=ONE), actor="test")
            await asyncio.wait([told], timeout=0.1)
        after = answers.get("runs", lambda: next(numbers))
        live.close()
        return told.result(), after - before

    message, computed = asyncio.run(asyncio.wait_for(follow(), _PATIENCE))
    assert b'"runs"' in message
    assert computed == 1
