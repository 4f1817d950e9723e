"""Streams that must be ended from this side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message

from ccat_workflow_manager.api import event_stream
from ccat_workflow_manager.api.event_stream import EventStream, OpenStreams
from tests.support.waiting import PATIENCE


async def texts() -> AsyncGenerator[bytes, None]:
    while True:
        yield b": more\n"
        await asyncio.sleep(0)


class Known:
    """An authenticator that knows each caller, until it fails."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)

    async def is_still_known(self, request: Request) -> bool:
        return self._answers.pop(0)


def test_a_client_that_takes_nothing_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_SEND_SECONDS", 0)
    monkeypatch.setattr(event_stream, "_LOOK_SECONDS", 0.01)
    assert run(Known(*[True] * 1000), takes=False) == ["aborted", "ended"]


@pytest.mark.parametrize("answers", [(True, False), (True,)])
def test_the_stream_of_one_who_is_no_longer_known_ends(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[bool, ...]
) -> None:
    """Also if nothing can be found out about anyone, as the check itself has failed."""
    monkeypatch.setattr(event_stream, "_LOOK_SECONDS", 0.01)
    assert run(Known(*answers), takes=True) == ["finished", "ended"]


def run(authenticator: Known, *, takes: bool) -> list[str]:
    """What becomes of a stream to a client that takes all of it, or nothing."""
    happened: list[str] = []
    gone = asyncio.Event()

    def abort() -> None:
        happened.append("aborted")
        gone.set()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if not takes and message["type"] == "http.response.body":
            await gone.wait()
        if message["type"] == "http.response.body" and not message["more_body"]:
            happened.append("finished")

    async def serve() -> None:
        streams: Any = OpenStreams(authenticator)  # type: ignore[arg-type]
        app = SimpleNamespace(state=SimpleNamespace(open_streams=streams))
        scope = {"type": "http", "method": "GET", "headers": [], "app": app, "state": {"abort": abort}}
        stream = EventStream(Request(scope), texts(), on_end=lambda: happened.append("ended"))
        await stream(scope, receive, send)

    asyncio.run(asyncio.wait_for(serve(), PATIENCE))
    return happened
