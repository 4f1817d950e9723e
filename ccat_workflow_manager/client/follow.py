"""Reads what grows: the log of a step run, and the stream of events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import httpx

from ccat_workflow_manager.client.answers import FINISHED
from ccat_workflow_manager.client.connection import ApiRefused
from ccat_workflow_manager.client.transport import Request, Transport
from ccat_workflow_manager.errors import ServiceUnavailable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 1.0
_RECONNECT_SECONDS = 1.0
EVENT_STREAM = "text/event-stream"


async def log(
    api: Transport, step_run_id: str, *, following: bool, stream: str, attempt: int | None, tail: int | None
) -> AsyncGenerator[str, None]:
    """The log in pieces. Following, it goes on to the end of the last attempt, or of the wanted one."""
    pause, number = _FIRST_PAUSE, attempt
    offset: int | None = None if tail is not None else 0
    while True:
        # The state is read before the log: a log that is read after the end is complete.
        state = await api.json("GET", f"/step-runs/{step_run_id}") if following else None
        if state is not None and attempt is None and state["attempt"] != number:
            number, offset = state["attempt"] or None, None if tail is not None else 0
        where = {"tail": tail} if offset is None else {"offset": offset}
        query = {"attempt": number, "stream": stream, **where}
        try:
            response = await api.send(Request("GET", f"/step-runs/{step_run_id}/log", query))
        except ApiRefused as error:
            # Before the first attempt there is no log.
            if error.status != 404 or state is None or state["status"] in FINISHED:
                raise
        else:
            if response.text:
                yield response.text
                pause = _FIRST_PAUSE
            before, offset = offset, _number(response, "X-Log-Next-Offset")
            size = _number(response, "X-Log-Size")
            if offset is not None and size is not None and offset < size and offset != before:
                continue
            if offset is None:
                # Only its backend has this log, and gives no more than its end.
                return
        if state is None or state["status"] in FINISHED or (attempt is not None and attempt < state["attempt"]):
            return
        await api.pause(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _number(response: httpx.Response, header: str) -> int | None:
    value = response.headers.get(header, "")
    return int(value) if value.isdecimal() else None


async def events(api: Transport, after: str | None, query: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """Events without end. The id of the last one goes along when the connection is made again."""
    last, first = after, True
    while True:
        headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": last} if last and not first else {})}
        given = {**query, "after": after if first else None}
        try:
            async with api.stream(Request("GET", "/events", given, headers=headers, timeout=3600)) as (_, chunks):
                async for identity, data in messages(chunks):
                    if data is not None:
                        last, first = identity or last, False
                        yield json.loads(data)
        except ServiceUnavailable:
            if first:
                raise
        await api.pause(_RECONNECT_SECONDS)


async def messages(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str | None, str | None], None]:
    """The id and the data of each message of an event stream, and (None, None) behind a piece without one."""
    rest = b""
    identity: str | None = None
    data: list[str] = []
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        any_message = False
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if not line:
                if data:
                    any_message = True
                    yield identity, "\n".join(data)
                data = []
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif line.startswith("id:"):
                identity = line[3:].strip()
        if not any_message:
            yield None, None
