"""GET /step-runs/{id}/log?follow=true: a log as server-sent events."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.services.log_stream import LogStream, Start, new_part
from tests.api.rest import Hand, Rest
from tests.api.test_events import serving
from tests.support.waiting import PATIENCE, wait_until

ONCE_AGAIN = {"name": "one", "steps": [{"name": "only", "command": ["true"], "retry": {"max_attempts": 2}}]}


@pytest.fixture
def run(rest: Rest) -> dict[str, Any]:
    return rest.run(ONCE_AGAIN)


def address(run: dict[str, Any]) -> str:
    return f"/step-runs/{run['step_runs'][0]['id']}/log"


def write(base_dir: Path, run: dict[str, Any], text: str, attempt: int = 1, stream: str = "stdout") -> None:
    logs = base_dir / "one" / run["id"] / "only" / "main" / f"attempt-{attempt}" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{stream}.log").open("ab") as file:
        file.write(text.encode())


def events(text: str) -> list[tuple[str, str, str]]:
    """Kind, id and data of each event."""
    found = []
    for block in text.replace(": events\n", "").split("\n\n"):
        pairs = [line.partition(": ")[::2] for line in block.split("\n") if line and not line.startswith(":")]
        names = {name for name, _ in pairs}
        fields = {name: "\n".join(value for each, value in pairs if each == name) for name in names}
        if fields:
            found.append((fields.get("event", ""), fields.get("id", ""), fields["data"]))
    return found


def followed(rest: Rest, run: dict[str, Any], after: str = "", **query: Any) -> list[tuple[str, str, str]]:
    headers = {"Last-Event-ID": after} if after else {}
    response = rest.send("GET", address(run), params={"follow": "true", **query}, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events(response.text)


def begin(attempt: int = 1) -> tuple[str, str, str]:
    return ("attempt", "", str(attempt))


def end(status: str) -> tuple[str, str, str]:
    return ("end", "", json.dumps({"status": status}))


def test_a_finished_log_comes_at_once(rest: Rest, hand: Hand, base_dir: Path, run: dict[str, Any]) -> None:
    hand.complete(hand.claim()[0])
    write(base_dir, run, "one\r\ntwo\nthréé\n")
    write(base_dir, run, "oh\n", stream="stderr")
    assert followed(rest, run) == [begin(), ("", "1-17", "one\ntwo\nthréé\n"), end("COMPLETED")]
    assert followed(rest, run, tail=1) == [begin(), ("", "1-17", "thréé\n"), end("COMPLETED")]
    assert followed(rest, run, stream="stderr", attempt=1) == [begin(), ("", "1-3", "oh\n"), end("COMPLETED")]
    assert followed(rest, run, after="1-5", tail=1) == [begin(), ("", "1-17", "two\nthréé\n"), end("COMPLETED")]
    assert followed(rest, run, after="1-17") == [begin(), end("COMPLETED")]


def test_a_log_is_followed_over_all_attempts(rest: Rest, hand: Hand, base_dir: Path, run: dict[str, Any]) -> None:
    hand.fail(hand.claim()[0])
    write(base_dir, run, "first\n")
    rest.post(f"/runs/{run['id']}/retry")
    hand.complete(hand.claim()[0])
    write(base_dir, run, "second\n", attempt=2)
    resumed = [begin(), ("", "1-6", "first\n"), begin(2), ("", "2-7", "second\n"), end("COMPLETED")]
    assert followed(rest, run) == resumed[2:]
    assert followed(rest, run, after="1-0") == resumed
    assert followed(rest, run, attempt=1) == [*resumed[:2], end("COMPLETED")]


def test_both_streams_come_together(rest: Rest, hand: Hand, base_dir: Path, run: dict[str, Any]) -> None:
    hand.fail(hand.claim()[0])
    write(base_dir, run, "out\n")
    write(base_dir, run, "oh dear\n", stream="stderr")
    rest.post(f"/runs/{run['id']}/retry")
    hand.complete(hand.claim()[0])
    write(base_dir, run, "better\n", attempt=2)
    second = [begin(2), ("stdout", "2-7-0", "better\n"), end("COMPLETED")]
    all_ = [begin(), ("stdout", "1-4-0", "out\n"), ("stderr", "1-4-8", "oh dear\n"), *second]
    assert followed(rest, run, stream="both") == second
    assert followed(rest, run, after="1-0-0", stream="both") == all_
    assert followed(rest, run, after="1-4-3", stream="both") == [begin(), ("stderr", "1-4-8", "dear\n"), *second]
    assert followed(rest, run, stream="both", attempt=1, tail=1) == [
        begin(), ("stdout", "", "out\n"), all_[2], end("COMPLETED")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "text", "fresh"),
    [
        ("", "a\n", "a\n"),
        ("a\n", "a\n", ""),
        ("a\n", "a\nb\n", "b\n"),
        ("a\nb\n", "0\na\nb\nc\n", "c\n"),
        ("a\n", "much\nlater\n", "much\nlater\n"),
        ("x" * 9000 + "end\n", "x" * 5000 + "end\nnew\n", "new\n"),
    ],
)
def test_only_the_new_part_of_a_log_is_sent(shown: str, text: str, fresh: str) -> None:
    assert new_part(shown, text)[0] == fresh


def test_a_long_log_comes_in_pieces(rest: Rest, hand: Hand, base_dir: Path, run: dict[str, Any]) -> None:
    hand.complete(hand.claim()[0])
    text = "0123456789 héllo\n" * 300_000
    write(base_dir, run, text)
    _, *pieces, last = followed(rest, run)
    assert (len(pieces) > 1, last) == (True, end("COMPLETED"))
    assert "".join(data for _, _, data in pieces) == text


def test_what_is_written_later_is_sent(
    context: Context, rest: Rest, hand: Hand, base_dir: Path, run: dict[str, Any]
) -> None:
    """The stream of a step run that has not begun waits for its first attempt."""
    seen: list[str] = []
    with serving(context) as client:

        def read() -> None:
            with client.stream("GET", address(run), params={"follow": True}) as response:
                seen.extend(response.iter_lines())

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: seen, what="the stream to begin")
        (item,) = hand.claim()
        write(base_dir, run, "one\n")
        wait_until(lambda: "data: one" in seen)
        write(base_dir, run, "two\n")
        wait_until(lambda: "data: two" in seen)
        assert "event: end" not in seen
        hand.complete(item)
        reader.join(PATIENCE)
    assert "event: end" in seen


def test_a_log_that_only_the_backend_has_is_read_once_its_job_is_known(
    hand: Hand, context: Context, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_: object, __: str, question: dict[str, Any]) -> dict[str, Any]:
        text = "from afar\n" if question["place"]["job_id"] else ""
        return {"text": text, "next_offset": None, "size": None, "truncated": False}

    monkeypatch.setattr(type(context.logs._questions), "ask", ask)
    (item,) = hand.claim()
    stream = LogStream(context.database, context.logs, item.step_run_id, Start.of("stdout", None, None, None))
    assert b"from afar" not in b"".join(stream.look())
    hand.submit(item)
    assert b"from afar" in b"".join(stream.look())


def test_a_log_that_only_the_backend_has(
    rest: Rest, hand: Hand, context: Context, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.complete(hand.claim()[0])
    answer = {"text": "from afar\n", "next_offset": None, "size": None, "truncated": False}
    monkeypatch.setattr(type(context.logs._questions), "ask", lambda self, backend, question: answer)
    assert followed(rest, run) == [begin(), ("", "", "from afar\n"), end("COMPLETED")]
    answer["truncated"] = True
    assert followed(rest, run) == [begin(), ("gap", "", ""), ("", "", "from afar\n"), end("COMPLETED")]


def test_bad_requests(rest: Rest, hand: Hand, run: dict[str, Any]) -> None:
    def refused(status: int, code: str, after: str = "", at: str = address(run), **query: Any) -> None:
        headers = {"Last-Event-ID": after} if after else {}
        rest.refused(rest.send("GET", at, params={"follow": "true", **query}, headers=headers), status, code)

    refused(404, "not_found", at=f"/step-runs/{uuid4()}/log")
    refused(404, "not_found", attempt=1)
    hand.complete(hand.claim()[0])
    refused(404, "not_found", after="2-0")
    for place in ("x", "1", "1-", "1-x", "-1-1", "1-1-1"):
        refused(400, "bad_cursor", after=place)
    refused(400, "bad_cursor", after="2-0", attempt=1)
    refused(400, "bad_cursor", after="1-0-0")
    refused(400, "bad_cursor", after="1-0", stream="both")
    refused(422, "invalid", follow="false", stream="both")
    refused(422, "invalid", follow="perhaps")
    refused(422, "invalid", tail=1, offset=1)


def test_a_manager_follows_so_many_logs(rest: Rest, hand: Hand, run: dict[str, Any]) -> None:
    streams = rest.client.app.state.log_streams  # type: ignore[attr-defined]
    streams._most = 0
    rest.refused(rest.send("GET", address(run), params={"follow": "true"}), 503, "service_unavailable")
    assert streams.streams == 0
